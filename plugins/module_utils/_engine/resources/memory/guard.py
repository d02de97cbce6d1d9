# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guard regions: pages that kill whoever touches them, without a mapping of their own (MADV_GUARD_INSTALL, Linux 6.13).

images: vma_entry with status VMA_AREA_GUARD and nothing but its addresses, behind all others of its task (CRIU 4.2).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache
from typing import Any, Iterator, List, Sequence, Tuple

from ...errors import Obstacle
from ...images.schema import message
from ...kernel import pagemap
from ...kernel.pagemap import PAGE_IS_GUARD, PAGE_IS_SWAPPED, PAGE_SIZE
from ...kernel.syscall import syscall
from ...tracee.calls import Call
from .mapping import VMA_AREA_GUARD, VMA_AREA_VSYSCALL, Mapping

MADV_GUARD_INSTALL = 102  # include/uapi/asm-generic/mman-common.h
_ENTRY_SIZE = 8


def dump(pid: int, mappings: Sequence[Mapping]) -> List[Any]:
    """Return the vma_entry of each guard region in MAPPINGS of PID, which stands still. Raises OSError."""
    fd = pagemap.open_pagemap(pid)
    try:
        if not pagemap.tells_guards(fd):
            return []
        spans = list(_spans(mappings))
        found = [run for start, end in spans for run in pagemap.scan(fd, start, end, 0, PAGE_IS_GUARD, PAGE_IS_GUARD)]
        return [_entry(run.start, run.end) for run in found]
    finally:
        os.close(fd)


def _spans(mappings: Sequence[Mapping]) -> Iterator[Tuple[int, int]]:
    """Yield the addresses of MAPPINGS, neighbours joined."""
    areas = [mapping.area for mapping in mappings if not mapping.status & VMA_AREA_VSYSCALL]
    start = end = 0
    for area in areas:
        if area.start != end:
            if start < end:
                yield start, end
            start = area.start
        end = area.end
    if start < end:
        yield start, end


def _entry(start: int, end: int) -> Any:
    return message("vma_entry")(start=start, end=end, pgoff=0, shmid=0, prot=0, flags=0, status=VMA_AREA_GUARD, fd=-1)


def restore_calls(vmas: Sequence[Any]) -> List[Call]:
    """Return the calls that install the guard regions among VMAS: after the content, and before locks, which the kernel wants."""
    return [Call("madvise", (vma.start, vma.end - vma.start, MADV_GUARD_INSTALL)) for vma in vmas if vma.status & VMA_AREA_GUARD]


def obstacles(pid: int, mappings: Sequence[Mapping]) -> Iterator[Obstacle]:
    """Yield the guard regions of PID where the kernel has them and does not tell them: Linux 6.13 and 6.14, where they look swapped."""
    fd = pagemap.open_pagemap(pid)
    try:
        known = _untold_entry()
        for mapping in (one for one in mappings if known and one.holds_pages):
            for run in pagemap.scan(fd, mapping.start, mapping.end, 0, PAGE_IS_SWAPPED, PAGE_IS_SWAPPED):
                entries = os.pread(fd, run.pages * _ENTRY_SIZE, run.start // PAGE_SIZE * _ENTRY_SIZE)
                if known in (entries[at : at + _ENTRY_SIZE] for at in range(0, len(entries), _ENTRY_SIZE)):
                    where, why = f"mapping {mapping.start:x}-{mapping.end:x}", "it has guard regions, which this kernel does not tell"
                    yield Obstacle(pid, where, why, "remove them (MADV_GUARD_REMOVE), or use Linux 6.15")
                    break
    finally:
        os.close(fd)


@cache
def _untold_entry() -> bytes:
    """Return what the pagemap has for a guard region's page where that is the only way to tell it; nothing where there is none.

    Without CAP_SYS_ADMIN it is hidden; then such a page, which cannot be read, fails the dump.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fd = pagemap.open_pagemap(os.getpid())
    try:
        if pagemap.tells_guards(fd):
            return b""
        syscall("madvise", address, mmap.PAGESIZE, MADV_GUARD_INSTALL)
        entry = os.pread(fd, _ENTRY_SIZE, address // PAGE_SIZE * _ENTRY_SIZE)
        return entry if any(entry[:-1]) else b""
    except OSError:  # EINVAL: this kernel has none
        return b""
    finally:
        os.close(fd)
