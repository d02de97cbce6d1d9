# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages of hugetlbfs: the pool of the machine must hold those of the dump. What they hold is carried as all memory is.

images: MAP_HUGETLB and the size in vma_entry.flags, memfd_inode_entry.hugetlb_flag, ipc_shm_entry.hugetlb_flag.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Counter as Count, Iterator, List, Sequence, Set, Tuple

from ...errors import Obstacle
from ...images.chain import Extent
from ...images.image import ImagesDir
from ...images.pagemap import PAGE_SIZE
from ...kernel import hugetlb, sysvipc
from .mapping import MAP_NORESERVE, VMA_ANON_PRIVATE, VMA_FILE_PRIVATE

_PRIVATE = VMA_ANON_PRIVATE | VMA_FILE_PRIVATE


Memory = Tuple[Any, Sequence[Extent]]
"""The mm_entry of a task, and where the content of its memory is."""


def check(images: ImagesDir, tasks: Sequence[Memory], segments: str) -> Iterator[Obstacle]:
    """Yield the sizes of which the machine has too few pages for all TASKS, and for the objects in IMAGES; SEGMENTS: the image of those."""
    known = hugetlb.shifts()
    for shift, needed in sorted(_needed(images, tasks, segments).items()):
        where = f"huge pages of {1 << shift - 10} KiB"
        if shift not in known:
            yield Obstacle(0, where, "this machine has none of that size", "restore on a machine that has")
        elif needed > hugetlb.free(shift):
            why = f"the dump needs {needed}, and {max(0, hugetlb.free(shift))} are free"
            yield Obstacle(0, where, why, "raise nr_hugepages (/sys/kernel/mm/hugepages), or end who uses them")


def _needed(images: ImagesDir, tasks: Sequence[Memory], segments: str) -> Count[int]:
    """Return how many pages of each size the kernel sets apart: private ones for each task, shared ones once."""
    needed: Count[int] = Counter()
    for mm, extents in tasks:
        for vma in mm.vmas:
            if vma.flags & hugetlb.MAP_HUGETLB and vma.status & _PRIVATE:
                shift = hugetlb.shift_of(vma.flags)
                unreserved = vma.flags & MAP_NORESERVE
                needed[shift] += len(_filled(vma, extents, shift)) if unreserved else vma.end - vma.start >> shift
    for flags, size in _objects(images, segments):
        shift = hugetlb.shift_of(flags)
        needed[shift] += -(-size >> shift)
    return needed


def _filled(vma: Any, extents: Sequence[Extent], shift: int) -> Set[int]:
    """Return the numbers of the pages of VMA that EXTENTS fill."""
    found: Set[int] = set()
    for extent in extents:
        low, high = max(vma.start, extent.start), min(vma.end, extent.start + extent.pages * PAGE_SIZE)
        if low < high:
            found.update(range(low >> shift, (high - 1 >> shift) + 1))
    return found


def _objects(images: ImagesDir, segments: str) -> List[Tuple[int, int]]:
    """Return flags and size of each object of huge pages that is to be made."""
    entries = list(_read(images, "memfd"))
    there = sysvipc.segments() if images.has(segments) else {}
    entries += [segment for segment in _read(images, segments) if segment.desc.id not in there]
    return [(entry.hugetlb_flag, entry.size) for entry in entries if entry.hugetlb_flag]


def _read(images: ImagesDir, name: str) -> Sequence[Any]:
    return images.read(name) if images.has(name) else ()
