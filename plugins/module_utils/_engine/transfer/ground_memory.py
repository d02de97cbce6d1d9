# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of one process to come: its private anonymous mappings, and which of their pages have come."""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from typing import Any, Dict, List, Sequence, Tuple

from ..errors import MoveError, RestoreError
from ..images.pagemap import PAGE_SIZE
from ..images.ranges import Range, difference, total, union
from ..kernel import procfs
from ..resources.memory import restore as memory
from ..resources.memory.mapping import EARLY_ADVICE, MAP_DROPPABLE, MAP_LOCKED, VMA_ANON_PRIVATE
from ..resources.memory.mapping import VMA_AREA_GUARD, VMA_AREA_VDSO, VMA_AREA_VSYSCALL, VMA_AREA_VVAR
from ..tracee.calls import Call
from ..tracee.tracee import Tracee

Piece = Tuple[int, int]
"""Address and bytes."""
_SPECIAL = VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL | VMA_AREA_GUARD
_NO_FD = (1 << 64) - 1


def is_ground(vma: Any) -> bool:
    """Tell whether VMA, a vma_entry, is of the kind that is prepared ahead: private anonymous memory, whose writes trackers tell."""
    return bool(vma.status & VMA_ANON_PRIVATE) and not vma.status & _SPECIAL and not vma.flags & MAP_DROPPABLE


class GroundMemory:
    """The memory of one stub. `close` drops our descriptor of it, no more."""

    def __init__(self, stub: Tracee, parking: memory.Parking) -> None:
        self.stub = stub
        self.parking = parking
        self._mapped: Dict[int, Tuple[Range, ...]] = {}
        """By MAP_… flags."""
        self._mappable: Tuple[Range, ...] = ()
        self._filled: Tuple[Range, ...] = ()
        self._arrived: List[Range] = []
        self._fd = -1

    def follow(self, vmas: Sequence[Any]) -> None:
        """Let the mappings be VMAS: what is in none of them any more is dropped, what stays keeps its pages. Raises OSError."""
        self.keep_clear_of(vmas)
        wanted: Dict[int, Tuple[Range, ...]] = {}
        for vma in vmas:
            flags = vma.flags & ~MAP_LOCKED
            wanted[flags] = (*wanted.get(flags, ()), (vma.start, vma.end))
        gone = union(*(difference(ranges, wanted.get(flags, ())) for flags, ranges in self._mapped.items()))
        calls = [Call("munmap", (start, end - start)) for start, end in gone]
        for vma in vmas:
            flags = vma.flags & ~MAP_LOCKED
            for start, end in difference([(vma.start, vma.end)], self._mapped.get(flags, ())):
                new = flags | procfs.MAP_FIXED_NOREPLACE
                calls.append(Call("mmap", (start, end - start, vma.prot, new, _NO_FD, 0)))
            calls += [Call("madvise", (vma.start, vma.end - vma.start, advice)) for advice in EARLY_ADVICE if vma.madv >> advice & 1]
        for reply in self.stub.batch(calls):
            reply.check()
        self._mapped = {flags: union(ranges) for flags, ranges in wanted.items()}
        self._mappable = union(*self._mapped.values())
        self._filled = tuple(difference(self._filled, gone))

    def keep_clear_of(self, vmas: Sequence[Any]) -> None:
        """Move what waits in the parking out of the way of VMAS. Raises OSError, RestoreError."""
        low, high = self.parking.address, self.parking.address + memory.parking_size(self.stub)
        if any(vma.start < high and low < vma.end for vma in vmas):
            self.parking = memory.move_parking(self.stub, vmas)

    def write(self, pieces: Sequence[Piece], data: memoryview) -> None:
        """Put DATA where PIECES tell. Raises MoveError for an address where nothing is mapped."""
        if self._fd < 0:
            self._fd = os.open(f"/proc/{self.stub.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        at = 0
        for address, length in pieces:
            self._require(address, length)
            self._put(address, data[at : at + length])
            self._arrived.append((address, address + length))
            at += length

    def clear(self, pieces: Sequence[Piece]) -> None:
        """Let there be zeros where PIECES tell. Raises MoveError as `write` does, OSError."""
        for address, length in pieces:
            self._require(address, length)
        if self._filled:  # nothing of them is there in the first round
            for reply in self.stub.batch([Call("madvise", (address, length, mmap.MADV_DONTNEED)) for address, length in pieces]):
                reply.check()
        self._arrived += [(address, address + length) for address, length in pieces]

    def _require(self, address: int, length: int) -> None:
        if length <= 0 or (address | length) % PAGE_SIZE or not self._holds(address, address + length):
            raise MoveError(f"pages came for {address:x} of process {self.stub.pid}, where none can be; see who is at the other end")

    def _holds(self, start: int, end: int) -> bool:
        at = bisect_right(self._mappable, (start, 1 << 64)) - 1
        return at >= 0 and end <= self._mappable[at][1]

    def _put(self, address: int, data: memoryview) -> None:
        while data:
            try:
                done = os.pwrite(self._fd, data, address)
            except OSError as error:
                raise RestoreError(f"memory of process {self.stub.pid} cannot be filled ({error.strerror}); free some") from error
            if not done:
                raise RestoreError(f"process {self.stub.pid} that was to come has ended; move the tree again")
            address, data = address + done, data[done:]

    def settle(self) -> None:
        """Count what arrived as there."""
        self._filled = union(self._filled, self._arrived)
        self._arrived.clear()

    def keep_only(self, counted_on: Sequence[Range], replaced: Sequence[Range]) -> None:
        """Drop the pages that are neither COUNTED_ON nor about to be REPLACED. Raises RestoreError when one of COUNTED_ON is missing."""
        missing = total(difference(counted_on, self._filled))
        if missing:
            raise RestoreError(f"{missing // PAGE_SIZE} pages of process {self.stub.pid} that were to be here are not; move the tree again")
        stale = difference(self._filled, union(counted_on, replaced))
        calls = [Call("madvise", (start, end - start, mmap.MADV_DONTNEED)) for start, end in stale]
        for reply in self.stub.batch(calls):
            reply.check()

    def close(self) -> None:
        """Drop our descriptor of the memory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
