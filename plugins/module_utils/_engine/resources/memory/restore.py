# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Building the memory of a stub: an empty address space, the mappings, their pages, the vDSO, the numbers of the mm."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence

from ...errors import Obstacle, RestoreError
from ...images.chain import Extent
from ...images.pagemap import PAGE_SIZE
from ...images.ranges import Range, difference, union
from ...kernel import procfs
from ...tracee.calls import Call, Reply
from ...tracee.tracee import SCRATCH_SIZE, Tracee
from .. import numa
from . import guard, names, seal
from .inheritance import Inheritance, part
from .mapping import VMA_AREA_VDSO, VMA_AREA_VSYSCALL, VMA_AREA_VVAR, VdsoParts, map_calls, settle_calls

TASK_SIZE = (1 << 47) - PAGE_SIZE
"""The end of the address space of a task, x86-64 with four levels of page tables."""
_LOWEST = 1 << 32
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_LARGEST_READ = 1 << 30


@dataclass(frozen=True)
class Parking:
    """A stretch of addresses that no task of the tree uses: the scratch mapping and the special mappings wait there."""

    address: int
    end: int

    @property
    def special(self) -> int:
        return self.address + SCRATCH_SIZE


def find_parking(mms: Iterable[Any], stub: Tracee) -> Parking:
    """Return a place that is free in all the MMS and in STUB. Raises RestoreError when there is none."""
    size = 2 * SCRATCH_SIZE + sum(VdsoParts.of_task(stub.pid).sizes.values())
    used = [(vma.start, vma.end) for mm in mms for vma in mm.vmas if not vma.status & VMA_AREA_VSYSCALL]
    used += [(area.start, area.end) for area in procfs.maps(stub.pid) if area.end <= TASK_SIZE]
    end = _LOWEST
    for start, until in sorted(used):
        if start - end >= size:
            return Parking(end, end + size)
        end = max(end, until)
    if TASK_SIZE - end >= size:
        return Parking(end, end + size)
    raise RestoreError("no free stretch of addresses is left in the tree's address spaces; it cannot be restored")


def clear(stub: Tracee, parking: Parking) -> None:
    """Leave nothing in the address space of STUB but what waits in PARKING. Raises OSError."""
    stub.open_scratch(parking.address)
    _move_special(stub, parking.special)
    unmap(stub, parking, ())


def unmap(stub: Tracee, parking: Parking, kept: Iterable[Range]) -> None:
    """Leave nothing in the address space of STUB but what lies in PARKING, and the stretches KEPT, in ascending order. Raises OSError."""
    left = union(kept, [(parking.address, parking.end)])
    stub.moved()
    _check(stub.batch([Call("munmap", (start, end - start)) for start, end in difference([(0, TASK_SIZE)], left)]))


def _move_special(stub: Tracee, target: int) -> None:
    """Move vvar and vDSO to TARGET, side by side in the order they have."""
    calls = []
    areas = [area for area in procfs.maps(stub.pid) if area.name in ("[vvar]", "[vvar_vclock]", "[vdso]")]
    for area in areas:
        size = area.end - area.start
        calls.append(Call("mremap", (area.start, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, target)))
        target += size
    stub.moved()
    _check(stub.batch(calls))


def check_vdso(pid: int, vmas: Sequence[Any]) -> List[Obstacle]:
    """Return what stands in the way of giving a task with VMAS the vDSO of this kernel."""
    wanted, ours = VdsoParts.of_image(vmas).sizes, VdsoParts.of_task(os.getpid()).sizes
    if not wanted or wanted == ours:
        return []
    why = f"its vDSO has other sizes ({_sizes(wanted)}) than this kernel's ({_sizes(ours)})"
    return [Obstacle(pid, "vDSO", why, "restore it on the kernel that it was dumped on, or with CRIU")]


def _sizes(sizes: Dict[str, int]) -> str:
    return ", ".join(f"{name} {size // PAGE_SIZE} pages" for name, size in sorted(sizes.items())) or "none"


def fill(
    stub: Tracee, mm: Any, extents: Sequence[Extent], pages: Dict[str, int], local: Callable[[Any], int], inherited: Inheritance
) -> int:
    """Make the mappings of MM in STUB, which has nothing but what it has INHERITED, and fill them in; return the number of pages read.

    PAGES: the task's descriptors of the pages files by path. LOCAL: of what a vma_entry maps. Raises OSError, RestoreError.
    """
    extents = list(_without_special(mm.vmas, extents))
    filled = _filled(mm.vmas, extents)
    new = [(vma, written) for vma, written in zip(mm.vmas, filled) if (vma.start, vma.end) not in inherited.vmas]
    made = map_calls([vma for vma, _written in new], [written for _vma, written in new], local)
    policies = numa.restore_calls([vma for vma, _written in new])
    _check(stub.batch(_inherit_calls(mm.vmas, filled, inherited) + made + policies))
    left = list(inherited.left(extents))
    calls = [call for extent in left for call in _read_calls(extent, pages[extent.path])]
    for call, reply in zip(calls, stub.batch(calls)):
        if reply.check() != call.args[2]:
            raise RestoreError(f"the pages of process {stub.pid} could not be read whole; verify the dump")
    return sum(extent.pages for extent in left)


def settle(stub: Tracee, mm: Any, extents: Sequence[Extent]) -> None:
    """Give the mappings of MM, which `fill` made from EXTENTS, what hinders that, or would be lost in a fork. Raises OSError."""
    filled = _filled(mm.vmas, list(_without_special(mm.vmas, extents)))
    _check(stub.batch(guard.restore_calls(mm.vmas) + settle_calls(mm.vmas, filled)))
    _place_special(stub, VdsoParts.of_image(mm.vmas))
    stub.batch(names.restore_calls(mm.vmas))
    _check(stub.batch(seal.restore_calls(mm.vmas)))


def _inherit_calls(vmas: Sequence[Any], filled: Sequence[bool], inherited: Inheritance) -> List[Call]:
    """Return the calls that give the mappings INHERITED the protection of a new one of VMAS, and drop all other pages in them."""
    calls = [
        Call("mprotect", (vma.start, vma.end - vma.start, vma.prot | (mmap.PROT_READ | mmap.PROT_WRITE if written else 0)))
        for vma, written in zip(vmas, filled)
        if (vma.start, vma.end) in inherited.vmas
    ]
    return calls + [Call("madvise", (start, end - start, mmap.MADV_DONTNEED)) for start, end in inherited.dropped()]


def _without_special(vmas: Sequence[Any], extents: Sequence[Extent]) -> Iterator[Extent]:
    """Yield EXTENTS without what lies in special mappings: the kernel gives these their content. Both are in ascending order."""
    special = [(vma.start, vma.end) for vma in vmas if vma.status & (VMA_AREA_VDSO | VMA_AREA_VVAR)]
    for extent in extents:
        start, end = extent.start, extent.start + extent.pages * PAGE_SIZE
        for low, high in special:
            if low < end and start < high:
                if start < low:
                    yield part(extent, start, low)
                start = high
        if start < end:
            yield part(extent, start, end)


def _filled(vmas: Sequence[Any], extents: Sequence[Extent]) -> List[bool]:
    """Tell for each of VMAS, in ascending order, whether any of EXTENTS lies in it."""
    found, at = [], 0
    for vma in vmas:
        while at < len(extents) and extents[at].start + extents[at].pages * PAGE_SIZE <= vma.start:
            at += 1
        found.append(at < len(extents) and extents[at].start < vma.end)
    return found


def _read_calls(extent: Extent, fd: int) -> Iterable[Call]:
    size = extent.pages * PAGE_SIZE
    for done in range(0, size, _LARGEST_READ):
        yield Call("pread64", (fd, extent.start + done, min(_LARGEST_READ, size - done), extent.offset + done))


def _place_special(stub: Tracee, wanted: VdsoParts) -> None:
    """Move vvar and vDSO to where the task had them, or drop them if it had none."""
    calls = []
    offsets = {name: start for name, (start, _size) in wanted.parts.items()}
    for area in procfs.maps(stub.pid):
        name = "vvar" if area.name in ("[vvar]", "[vvar_vclock]") else "vdso" if area.name == "[vdso]" else ""
        size = area.end - area.start
        if name in offsets:
            calls.append(Call("mremap", (area.start, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, offsets[name])))
            offsets[name] += size
        elif name:
            calls.append(Call("munmap", (area.start, size)))
    stub.moved()
    _check(stub.batch(calls))


def _check(replies: Sequence[Reply]) -> None:
    for reply in replies:
        reply.check()
