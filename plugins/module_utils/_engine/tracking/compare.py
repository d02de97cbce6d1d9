# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparing memory with what the parent dump holds: needs nothing of the kernel, nor of a tracker that was lost."""

from __future__ import annotations

import os
from typing import Dict, Iterator, Optional, Tuple

from ..errors import ChainError, TargetError
from ..images.chain import Chain, Extent
from ..images.fault import fault
from ..kernel.memory import MemoryReader
from ..kernel.pagemap import PAGE_SIZE
from ..resources.memory.pages import PageRun, PageRuns

NAME = "compare"
_STEP = 1 << 20  # bytes compared at once


class Comparison:
    """Compares the memory of a process, which stands still or is a snapshot, with one pagemap of a chain. A context manager."""

    def __init__(self, pid: int, parent: Chain, name: str, tolerant: bool = False) -> None:
        """TOLERANT: PID runs, and what it has no more counts as changed."""
        self._tolerant = tolerant
        self._reader = MemoryReader(pid)
        self._extents = parent.iterate_extents(name)
        self._extent: Optional[Extent] = None
        self._fds: Dict[str, int] = {}
        self._buffer = memoryview(bytearray(_STEP))

    def __enter__(self) -> Comparison:
        self._extent = next(self._extents, None)
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def refine(self, runs: PageRuns) -> PageRuns:
        """Return RUNS with those pages left to the parent that hold the same there. Raises ChainError, TargetError."""
        refined = PageRuns()
        for run in runs:
            if run.in_parent or run.early:
                refined.add(*run)
                continue
            for start, end, same in self._parts(run):
                refined.add(start, end, same, False)
        return refined

    def _parts(self, run: PageRun) -> Iterator[Tuple[int, int, bool]]:
        at = run.start
        while at < run.end:
            extent = self._reach(at)
            if extent is None or extent.start >= run.end:
                yield at, run.end, False
                return
            if extent.start > at:
                yield at, extent.start, False
                at = extent.start
            end = min(run.end, extent.start + extent.pages * PAGE_SIZE, at + _STEP)
            ours = self._memory(at, end - at)
            if ours:
                yield from self._compare(at, ours, self._parent(extent, at, end - at))
            else:
                yield at, end, False
            at = end

    def _reach(self, address: int) -> Optional[Extent]:
        """Return the first extent that ends behind ADDRESS; addresses only ascend."""
        while self._extent is not None and self._extent.start + self._extent.pages * PAGE_SIZE <= address:
            self._extent = next(self._extents, None)
        return self._extent

    def _compare(self, address: int, ours: bytes, theirs: bytes) -> Iterator[Tuple[int, int, bool]]:
        """Yield which parts of a stretch are the same, halving it where they are not."""
        if ours == theirs:
            yield address, address + len(ours), True
        elif len(ours) <= PAGE_SIZE:
            yield address, address + len(ours), False
        else:
            half = len(ours) // PAGE_SIZE // 2 * PAGE_SIZE
            yield from self._compare(address, ours[:half], theirs[:half])
            yield from self._compare(address + half, ours[half:], theirs[half:])

    def _memory(self, address: int, size: int) -> bytes:
        """Return the memory; nothing where it is gone and that is no error."""
        try:
            self._reader.read_into(self._buffer[:size], [(address, size)])
        except OSError as error:
            if self._tolerant:
                return b""
            raise TargetError(
                f"memory of process {self._reader.pid} at {address:x} cannot be read ({error.strerror}); dump it again"
            ) from error
        return bytes(self._buffer[:size])

    def _parent(self, extent: Extent, address: int, size: int) -> bytes:
        try:
            if extent.path not in self._fds:
                self._fds[extent.path] = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
            content = os.pread(self._fds[extent.path], size, extent.offset + address - extent.start)
        except OSError as error:
            raise ChainError(str(fault("read", extent.path, error))) from error
        return content
