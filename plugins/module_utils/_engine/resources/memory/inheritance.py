# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy-on-write pages that a process shares with the one that forked it, found again from their images.

The images have the pages of each process in full. What a child has at the same place of the same mapping, with the same
content, it is given by a fork of its parent, whose memory must be there by then; as CRIU does it.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from ...errors import ChainError
from ...images.chain import Extent
from ...images.fault import fault
from ...images.pagemap import PAGE_SIZE
from ...images.ranges import Range, difference, merged
from ...kernel.hugetlb import MAP_HUGETLB
from .mapping import (
    EARLY_ADVICE,
    MAP_DROPPABLE,
    MAP_LOCKED,
    VMA_ANON_PRIVATE,
    VMA_AREA_GUARD,
    VMA_AREA_HEAP,
    VMA_AREA_MEMFD,
    VMA_AREA_REGULAR,
    VMA_AREA_STACK,
    VMA_FILE_PRIVATE,
)

_STEP = 1 << 18
"""Bytes compared at once: what stays in the processor's cache."""
_SAMPLE = 1 << 17
"""Bytes from one sample to the next."""
_PATIENCE = 1024
"""Pages that are compared in vain before samples are taken."""
_HEIRS = VMA_AREA_REGULAR | VMA_AREA_HEAP | VMA_AREA_STACK | VMA_AREA_MEMFD | VMA_ANON_PRIVATE | VMA_FILE_PRIVATE
"""The status bits of a mapping that can be inherited."""


_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Content(NamedTuple):
    """The memory of one process: its mm_entry, where its pages lie, by ascending address, and its task_core_entry."""

    mm: Any
    extents: Sequence[Extent]
    tc: Any


@dataclass(frozen=True)
class Inheritance:
    """What a process is given by the one that forks it."""

    vmas: Tuple[Range, ...] = ()
    """The mappings, whole ones of its own."""
    pages: Tuple[Range, ...] = ()
    """The addresses of the pages in them that it keeps."""
    compared: int = 0
    """Pages that were looked at for it."""

    def dropped(self) -> Iterator[Range]:
        """Yield the parts of its mappings that it does not keep."""
        return difference(self.vmas, self.pages)

    def left(self, extents: Sequence[Extent]) -> Iterator[Extent]:
        """Yield the parts of EXTENTS that it is not given."""
        own = iter(extents)
        extent = next(own, None)
        for start, end in difference(((one.start, _end(one)) for one in extents), self.pages):
            while extent is not None and _end(extent) <= start:
                extent = next(own, None)
            if extent is not None:
                yield cut(extent, start, end)

    @property
    def size(self) -> int:
        """Pages that it keeps."""
        return sum(end - start for start, end in self.pages) // PAGE_SIZE


NOTHING = Inheritance()


def find(child: Content, maker: Content) -> Inheritance:
    """Return what CHILD has in common with MAKER, the process that forks it. Raises ChainError."""
    if child.mm.exe_file_id != maker.mm.exe_file_id:
        return NOTHING
    vmas = tuple(_common(child.mm.vmas, maker.mm.vmas))
    compared, pages = 0, []
    with _Comparison() as comparison:
        for ours, theirs in _overlaps(vmas, child.extents, maker.extents):
            compared += ours.pages
            pages += comparison.same(ours, theirs)
    kept = tuple(merged(pages))
    return Inheritance(tuple(_with_pages(vmas, kept)), kept, compared)


def _common(vmas: Sequence[Any], others: Sequence[Any]) -> Iterator[Range]:
    """Yield those of VMAS, whole ones, that lie within one of OTHERS of the same kind; of neighbours in one, the first only.

    Those would become one mapping, where a fork keeps what is new apart from what was inherited.
    """
    theirs = (vma for vma in others if not vma.status & VMA_AREA_GUARD)
    other = next(theirs, None)
    last = None
    for vma in (vma for vma in vmas if not vma.status & VMA_AREA_GUARD):
        while other is not None and other.end <= vma.start:
            other = next(theirs, None)
        if other is None:
            return
        if other.start <= vma.start and vma.end <= other.end and _same_kind(vma, other):
            if last is not None and last.end == vma.start and (last.prot, last.madv, last.flags) == (vma.prot, vma.madv, vma.flags):
                continue
            yield vma.start, vma.end
            last = vma


def _same_kind(vma: Any, other: Any) -> bool:
    kind = VMA_ANON_PRIVATE | VMA_FILE_PRIVATE
    if (vma.status | other.status) & ~_HEIRS or not vma.status & kind or (vma.status ^ other.status) & kind:
        return False
    if (vma.flags ^ other.flags) & ~MAP_LOCKED or vma.flags & (MAP_DROPPABLE | MAP_HUGETLB):
        return False
    if vma.stillframe.numa != other.stillframe.numa:
        return False
    if any((vma.madv ^ other.madv) >> advice & 1 for advice in EARLY_ADVICE):
        return False
    return bool(vma.status & VMA_ANON_PRIVATE) or (vma.shmid, vma.pgoff) == (other.shmid, other.pgoff + vma.start - other.start)


def _with_pages(vmas: Sequence[Range], pages: Sequence[Range]) -> Iterator[Range]:
    """Yield those of VMAS that any of PAGES lies in; both are in ascending order."""
    at = 0
    for start, end in vmas:
        while at < len(pages) and pages[at][1] <= start:
            at += 1
        if at < len(pages) and pages[at][0] < end:
            yield start, end


def _overlaps(ranges: Sequence[Range], ours: Sequence[Extent], theirs: Sequence[Extent]) -> Iterator[Tuple[Extent, Extent]]:
    """Yield the stretches of addresses in RANGES that both OURS and THEIRS have, as the parts of each."""
    i = j = k = 0
    while i < len(ranges) and j < len(ours) and k < len(theirs):
        start = max(ranges[i][0], ours[j].start, theirs[k].start)
        ends = ranges[i][1], _end(ours[j]), _end(theirs[k])
        end = min(ends)
        if start < end:
            yield cut(ours[j], start, end), cut(theirs[k], start, end)
        i, j, k = i + (ends[0] == end), j + (ends[1] == end), k + (ends[2] == end)


def cut(extent: Extent, start: int, end: int) -> Extent:
    """Return the part of EXTENT from address START to END."""
    return Extent(start, (end - start) // PAGE_SIZE, extent.path, extent.offset + start - extent.start)


def _end(extent: Extent) -> int:
    return extent.start + extent.pages * PAGE_SIZE


class _Comparison:
    """Compares pages of pages files. A context manager."""

    def __init__(self) -> None:
        self._fds: Dict[str, int] = {}
        self._buffers = tuple(memoryview(bytearray(_STEP)) for _side in range(2))
        self._addresses = tuple(ctypes.addressof(ctypes.c_char.from_buffer(buffer)) for buffer in self._buffers)
        self._different = 0
        """Pages without one that was the same, up to now."""

    def __enter__(self) -> _Comparison:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def same(self, ours: Extent, theirs: Extent) -> List[Range]:
        """Return where OURS and THEIRS, of the same addresses, have the same content. Raises ChainError.

        Where there was nothing of that for long, only samples are looked at until one is the same: it may be missed then.
        """
        found: List[Range] = []
        for start in range(ours.start, _end(ours), _STEP):
            end = min(start + _STEP, _end(ours))
            pair = cut(ours, start, end), cut(theirs, start, end)
            if self._different < _PATIENCE or any(self._parts(*self._page(pair, at)) for at in range(start, end, _SAMPLE)):
                kept = self._parts(*pair)
                self._different = 0 if kept else self._different + pair[0].pages
                found += kept
        return found

    def _page(self, pair: Tuple[Extent, Extent], start: int) -> Tuple[Extent, Extent]:
        return cut(pair[0], start, start + PAGE_SIZE), cut(pair[1], start, start + PAGE_SIZE)

    def _parts(self, ours: Extent, theirs: Extent) -> List[Range]:
        """Return what is the same of a pair that is no longer than the buffers."""
        for extent, buffer in zip((ours, theirs), self._buffers):
            self._read(extent, buffer)
        one, other = self._addresses
        if not _memcmp(one, other, ours.pages * PAGE_SIZE):
            return [(ours.start, _end(ours))]
        pages = range(0, ours.pages * PAGE_SIZE if ours.pages > 1 else 0, PAGE_SIZE)
        alike = (ours.start + at for at in pages if not _memcmp(one + at, other + at, PAGE_SIZE))
        return list(merged((start, start + PAGE_SIZE) for start in alike))

    def _read(self, extent: Extent, buffer: memoryview) -> None:
        size = extent.pages * PAGE_SIZE
        try:
            if extent.path not in self._fds:
                self._fds[extent.path] = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
            got = os.preadv(self._fds[extent.path], [buffer[:size]], extent.offset)
        except OSError as error:
            raise ChainError(str(fault("read", extent.path, error))) from error
        if got != size:
            raise ChainError(f"{extent.path} is truncated; use another copy of the dump")
