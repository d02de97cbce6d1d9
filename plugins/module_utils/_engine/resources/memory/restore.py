# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Building the memory of a stub: an empty address space, the mappings, their pages, the vDSO, the numbers of the mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from ...errors import RestoreError
from ...images.chain import Extent
from ...images.pagemap import PAGE_SIZE
from ...kernel import procfs
from ...tracee.calls import Call, Reply
from ...tracee.tracee import SCRATCH_SIZE, Tracee
from . import aio, vdso
from .mapping import MADV_POPULATE_WRITE, VMA_AREA_VDSO, VMA_AREA_VSYSCALL, VMA_AREA_VVAR, map_calls, protect_call, settle_calls
from .vdso import VdsoParts

TASK_SIZE = (1 << 47) - PAGE_SIZE
"""The end of the address space of a task, x86-64 with four levels of page tables."""
_LOWEST = 1 << 32
_PART = 1 << 20
"""Bytes: fits the processor's cache."""
_GROUP = 2048
"""Pages that are in the images and in a task at once, when the images are freed meanwhile."""

Emptied = Callable[[int, Extent], None]
"""Told which process has the content of an extent now, which the images need no longer hold."""


@dataclass(frozen=True)
class Parking:
    """A stretch of addresses that no task of the tree uses: the scratch mapping and the special mappings wait there."""

    address: int

    @property
    def special(self) -> int:
        return self.address + SCRATCH_SIZE


def find_parking(mms: Iterable[Any], stub: Tracee) -> Parking:
    """Return a place that is free in all the MMS and in STUB. Raises RestoreError when there is none."""
    size = parking_size(stub)
    used = [(vma.start, vma.end) for mm in mms for vma in mm.vmas if not vma.status & VMA_AREA_VSYSCALL]
    used += [(area.start, area.end) for area in procfs.maps(stub.pid) if area.end <= TASK_SIZE]
    end = _LOWEST
    for start, until in sorted(used):
        if start - end >= size:
            return Parking(end)
        end = max(end, until)
    if TASK_SIZE - end >= size:
        return Parking(end)
    raise RestoreError("no free stretch of addresses is left in the tree's address spaces; it cannot be restored")


def parking_size(stub: Tracee) -> int:
    """Return the bytes that a parking of STUB takes."""
    return 2 * SCRATCH_SIZE + sum(VdsoParts.of_task(stub.pid).sizes.values())


@dataclass(frozen=True)
class _Layout:
    vmas: Sequence[Any]


def move_parking(stub: Tracee, vmas: Sequence[Any]) -> Parking:
    """Move what waits in the parking of STUB to another one that is out of the way of VMAS. Raises OSError, RestoreError."""
    parking = find_parking([_Layout(vmas)], stub)
    stub.close_scratch()
    stub.open_scratch(parking.address)
    vdso.move(stub, parking.special)
    return parking


def clear(stub: Tracee, parking: Parking) -> None:
    """Leave nothing in the address space of STUB but what waits in PARKING. Raises OSError."""
    stub.open_scratch(parking.address)
    vdso.move(stub, parking.special)
    unmap_all(stub, parking)


def unmap_all(stub: Tracee, parking: Parking) -> None:
    """Unmap in STUB all but what waits in PARKING already. Raises OSError."""
    end = parking.special + sum(VdsoParts.of_task(stub.pid).sizes.values())
    _check(stub.batch([Call("munmap", (0, parking.address)), Call("munmap", (end, TASK_SIZE - end))]))


def _none_there(vma: Any) -> bool:
    return False


def build(
    stub: Tracee,
    mm: Any,
    extents: Sequence[Extent],
    pages: Dict[str, int],
    local: Callable[[Any], int],
    there: Callable[[Any], bool] = _none_there,
    emptied: Optional[Emptied] = None,
) -> int:
    """Make the mappings of MM in STUB, cleared before, and fill them in; return the number of pages filled.

    PAGES: the task's descriptors of the pages files by path. LOCAL: of what a vma_entry maps. THERE tells which mappings
    are there already, with pages that EXTENTS only add to. EMPTIED is told of what the stub has, as soon as it has it.
    Raises OSError, RestoreError.
    """
    proxy = vdso.plan(mm.vmas, extents)
    vmas = aio.as_memory(vdso.as_memory(mm.vmas) if proxy else mm.vmas)
    extents = list(_without_special(vmas, extents))
    filled = _filled(vmas, extents)
    _check(stub.batch(_mapping_calls(vmas, filled, [there(vma) for vma in mm.vmas], local)))
    if emptied is None:
        _read(stub, extents, pages)
    else:
        for group in _groups(extents):
            _read(stub, group, pages)
            for extent in group:
                emptied(stub.pid, extent)
    _check(stub.batch(settle_calls(vmas, filled)))
    aio.restore(stub, mm.aios)
    if proxy:
        vdso.place_beside(stub, proxy)
    else:
        vdso.place(stub, vmas)
    return sum(extent.pages for extent in extents)


def _mapping_calls(vmas: Sequence[Any], filled: Sequence[bool], there: Sequence[bool], local: Callable[[Any], int]) -> List[Call]:
    """Return what makes those of VMAS that are not THERE, and lets those that are be FILLED."""
    missing = [(vma, written) for vma, written, found in zip(vmas, filled, there) if not found]
    calls = map_calls([vma for vma, _written in missing], [written for _vma, written in missing], local)
    return calls + [protect_call(vma, written) for vma, written, found in zip(vmas, filled, there) if found]


def _read(stub: Tracee, extents: Sequence[Extent], pages: Dict[str, int]) -> None:
    calls = list(_fill_calls(extents, pages))
    for call, reply in zip(calls, stub.batch(calls)):
        if call.name == "pread64" and reply.check() != call.args[2]:
            raise RestoreError(f"the pages of process {stub.pid} could not be read whole; verify the dump")


def _groups(extents: Sequence[Extent]) -> Iterator[List[Extent]]:
    """Yield EXTENTS in groups of _GROUP pages at most."""
    group: List[Extent] = []
    room = _GROUP
    for extent in extents:
        for done in range(0, extent.pages, _GROUP):
            pages = min(_GROUP, extent.pages - done)
            if pages > room:
                yield group
                group, room = [], _GROUP
            group.append(Extent(extent.start + done * PAGE_SIZE, pages, extent.path, extent.offset + done * PAGE_SIZE))
            room -= pages
    if group:
        yield group


def _without_special(vmas: Sequence[Any], extents: Sequence[Extent]) -> Iterator[Extent]:
    """Yield EXTENTS without what lies in special mappings: the kernel gives these their content. Both are in ascending order."""
    special = [(vma.start, vma.end) for vma in vmas if vma.status & (VMA_AREA_VDSO | VMA_AREA_VVAR)]
    for extent in extents:
        start, end = extent.start, extent.start + extent.pages * PAGE_SIZE
        for low, high in special:
            if low < end and start < high:
                if start < low:
                    yield _part(extent, start, low)
                start = high
        if start < end:
            yield _part(extent, start, end)


def _part(extent: Extent, start: int, end: int) -> Extent:
    return Extent(start, (end - start) // PAGE_SIZE, extent.path, extent.offset + start - extent.start)


def _filled(vmas: Sequence[Any], extents: Sequence[Extent]) -> List[bool]:
    """Tell for each of VMAS, in ascending order, whether any of EXTENTS lies in it."""
    found, at = [], 0
    for vma in vmas:
        while at < len(extents) and extents[at].start + extents[at].pages * PAGE_SIZE <= vma.start:
            at += 1
        found.append(at < len(extents) and extents[at].start < vma.end)
    return found


def _fill_calls(extents: Sequence[Extent], pages: Dict[str, int]) -> Iterator[Call]:
    """Yield what fills EXTENTS: for each part that fits the processor's cache, its pages are made and then read.

    To have them made at once takes the kernel two thirds of the time that a fault for each page in the middle of a read
    takes. MADV_POPULATE_WRITE came with Linux 5.14; without it, or where it fails, the reads make the pages.
    """
    for part in _parts(extents):
        start, last = part[0].start, part[-1]
        yield Call("madvise", (start, last.start + last.pages * PAGE_SIZE - start, MADV_POPULATE_WRITE))
        for extent in part:
            yield Call("pread64", (pages[extent.path], extent.start, extent.pages * PAGE_SIZE, extent.offset))


def _parts(extents: Iterable[Extent]) -> Iterator[List[Extent]]:
    """Yield EXTENTS, cut and joined to parts of neighbouring pages, each of up to _PART bytes."""
    part: List[Extent] = []
    size = 0
    for extent in extents:
        end = extent.start + extent.pages * PAGE_SIZE
        at = extent.start
        if part and (part[-1].start + part[-1].pages * PAGE_SIZE != at or size == _PART):
            yield part
            part, size = [], 0
        while at < end:
            until = min(end, at + _PART - size)
            part.append(_part(extent, at, until))
            size += until - at
            at = until
            if at < end:
                yield part
                part, size = [], 0
    if part:
        yield part


def _check(replies: Sequence[Reply]) -> None:
    for reply in replies:
        reply.check()
