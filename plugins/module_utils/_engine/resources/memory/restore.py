# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Building the memory of a stub: an empty address space, the mappings, their pages, the vDSO, the numbers of the mm."""

from __future__ import annotations

import mmap
from itertools import islice
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ...errors import RestoreError
from ...images.chain import Extent
from ...images.pagemap import PAGE_SIZE
from ...images.ranges import Range, difference, union
from ...kernel import procfs
from ...progress import uncounted
from ...tracee.calls import Call, Reply
from ...tracee.tracee import SCRATCH_SIZE, Tracee
from .. import numa
from . import aio, guard, locked, names, seal, vdso
from .inheritance import NOTHING, Inheritance, cut
from .mapping import MADV_POPULATE_WRITE, VMA_AREA_VDSO, VMA_AREA_VSYSCALL, VMA_AREA_VVAR, map_calls, protect_call, settle_calls
from .vdso import VdsoParts

TASK_SIZE = (1 << 47) - PAGE_SIZE
"""The end of the address space of a task, x86-64 with four levels of page tables."""
_LOWEST = 1 << 32
_PART = 1 << 20
"""Bytes: fits the processor's cache."""
_AT_ONCE = 64
"""Parts that are read in one batch of calls."""
_GROUP = 2048
"""Pages that are in the images and in a task at once, when the images are freed meanwhile."""

Emptied = Callable[[int, Extent], None]
"""Told which process has the content of an extent now, which the images need no longer hold."""


@dataclass(frozen=True)
class Parking:
    """A stretch of addresses that no task of the tree uses: the scratch mapping and the special mappings wait there."""

    address: int
    end: int

    @property
    def special(self) -> int:
        return self.address + SCRATCH_SIZE


def find_parking(layouts: Iterable[Sequence[Any]], stub: Tracee) -> Parking:
    """Return a place that is free in all LAYOUTS, the vma_entries of a task each, and in STUB. Raises RestoreError when there is none."""
    size = parking_size(stub)
    used = [(vma.start, vma.end) for vmas in layouts for vma in vmas if not vma.status & VMA_AREA_VSYSCALL]
    used += [(area.start, area.end) for area in procfs.maps(stub.pid) if area.end <= TASK_SIZE]
    end = _LOWEST
    for start, until in sorted(used):
        if start - end >= size:
            return Parking(end, end + size)
        end = max(end, until)
    if TASK_SIZE - end >= size:
        return Parking(end, end + size)
    raise RestoreError("no free stretch of addresses is left in the tree's address spaces; it cannot be restored")


def parking_size(stub: Tracee) -> int:
    """Return the bytes that a parking of STUB takes."""
    return 2 * SCRATCH_SIZE + sum(VdsoParts.of_task(stub.pid).sizes.values())


def move_parking(stub: Tracee, vmas: Sequence[Any]) -> Parking:
    """Move what waits in the parking of STUB to another one that is out of the way of VMAS. Raises OSError, RestoreError."""
    parking = find_parking([vmas], stub)
    stub.close_scratch()
    stub.open_scratch(parking.address)
    vdso.move(stub, parking.special)
    return parking


def clear(stub: Tracee, parking: Parking) -> None:
    """Leave nothing in the address space of STUB but what waits in PARKING. Raises OSError."""
    stub.open_scratch(parking.address)
    vdso.move(stub, parking.special)
    unmap(stub, parking, ())


def unmap(stub: Tracee, parking: Parking, kept: Iterable[Range]) -> None:
    """Leave nothing in the address space of STUB but what lies in PARKING, and the stretches KEPT, in ascending order. Raises OSError."""
    left = union(kept, [(parking.address, parking.end)])
    stub.moved()
    _check(stub.batch([Call("munmap", (start, end - start)) for start, end in difference([(0, TASK_SIZE)], left)]))


@dataclass(frozen=True)
class Layout:
    """What the memory of a stub is made of."""

    vmas: Sequence[Any]
    """Its mappings, by ascending address, with plain memory in place of what is made from it."""
    extents: Sequence[Extent]
    filled: Sequence[bool]
    """For each of the mappings, whether any of the extents lies in it."""
    proxy: Optional[vdso.Proxy]


def lay_out(mm: Any, extents: Sequence[Extent]) -> Layout:
    """Return what the memory of MM with the content of EXTENTS is made of. Reads the pages of the vDSO. Raises ChainError."""
    proxy = vdso.plan(mm.vmas, extents)
    vmas = aio.as_memory(vdso.as_memory(mm.vmas) if proxy else mm.vmas)
    extents = list(_without_special(vmas, extents))
    return Layout(vmas, extents, _filled(vmas, extents), proxy)


def _none_there(vma: Any) -> bool:
    return False


def fill(
    stub: Tracee,
    layout: Layout,
    pages: Dict[str, int],
    local: Callable[[Any], int],
    inherited: Inheritance = NOTHING,
    there: Callable[[Any], bool] = _none_there,
    emptied: Optional[Emptied] = None,
    count: Callable[[int], None] = uncounted,
) -> int:
    """Make the mappings of LAYOUT in STUB, which has nothing but what it has INHERITED, and fill them in; return the number of pages read.

    PAGES: the task's descriptors of the pages files by path. LOCAL: of what a vma_entry maps. THERE tells which mappings
    are there already, with pages that the extents only add to. EMPTIED is told of what the stub has, as soon as it has it, and COUNT of
    how many bytes that is. Raises OSError, RestoreError.
    """
    _check(stub.batch(_mapping_calls(layout, inherited, there, local)))
    if emptied is None:
        return _read(stub, list(inherited.left(layout.extents)), pages, count)
    done = 0
    for group in _groups(layout.extents):
        done += _read(stub, list(inherited.left(group)), pages, count)
        for extent in group:
            emptied(stub.pid, extent)
    return done


def settle(stub: Tracee, mm: Any, layout: Layout) -> None:
    """Give the mappings of MM, which `fill` made by LAYOUT, what hinders that, or would be lost in a fork. Raises OSError, RestoreError."""
    _check(stub.batch(guard.restore_calls(layout.vmas) + settle_calls(layout.vmas, layout.filled)))
    locked.restore(stub, layout.vmas)
    aio.restore(stub, mm.aios)
    if layout.proxy:
        vdso.place_beside(stub, layout.proxy)
    else:
        vdso.place(stub, layout.vmas)
    stub.batch(names.restore_calls(layout.vmas))
    _check(stub.batch(seal.restore_calls(layout.vmas)))


def _mapping_calls(
    layout: Layout, inherited: Inheritance, there: Callable[[Any], bool], local: Callable[[Any], int]
) -> List[Call]:
    """Return what makes the mappings of LAYOUT, lets those that are there be filled, and drops what is not to be kept of these."""
    new: List[Tuple[Any, bool]] = []
    found: List[Tuple[Any, bool]] = []
    for vma, written in zip(layout.vmas, layout.filled):
        (found if (vma.start, vma.end) in inherited.vmas or there(vma) else new).append((vma, written))
    calls = [protect_call(vma, written) for vma, written in found]
    calls += [Call("madvise", (start, end - start, mmap.MADV_DONTNEED)) for start, end in inherited.dropped()]
    calls += map_calls([vma for vma, _written in new], [written for _vma, written in new], local)
    return calls + numa.restore_calls([vma for vma in layout.vmas if (vma.start, vma.end) not in inherited.vmas])


def _read(stub: Tracee, extents: Sequence[Extent], pages: Dict[str, int], count: Callable[[int], None]) -> int:
    parts = _parts(extents)
    while group := list(islice(parts, _AT_ONCE)):
        calls = [call for part in group for call in _fill_calls(part, pages)]
        for call, reply in zip(calls, stub.batch(calls)):
            if call.name == "pread64" and reply.check() != call.args[2]:
                raise RestoreError(f"the pages of process {stub.pid} could not be read whole; verify the dump")
        count(sum(extent.pages * PAGE_SIZE for part in group for extent in part))
    return sum(extent.pages for extent in extents)


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
                    yield cut(extent, start, low)
                start = high
        if start < end:
            yield cut(extent, start, end)


def _filled(vmas: Sequence[Any], extents: Sequence[Extent]) -> List[bool]:
    """Tell for each of VMAS, in ascending order, whether any of EXTENTS lies in it."""
    found, at = [], 0
    for vma in vmas:
        while at < len(extents) and extents[at].start + extents[at].pages * PAGE_SIZE <= vma.start:
            at += 1
        found.append(at < len(extents) and extents[at].start < vma.end)
    return found


def _fill_calls(part: Sequence[Extent], pages: Dict[str, int]) -> Iterator[Call]:
    """Yield what fills PART, which fits the processor's cache: its pages are made and then read.

    To have them made at once takes the kernel two thirds of the time that a fault for each page in the middle of a read
    takes. MADV_POPULATE_WRITE came with Linux 5.14; without it, or where it fails, the reads make the pages.
    """
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
            part.append(cut(extent, at, until))
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
