# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracking by soft-dirty bits (CONFIG_MEM_SOFT_DIRTY), as CRIU does it: no trace in the process.

Whoever else clears the bits of a process, CRIU for one, makes its changed pages look unchanged. So after a reset one page
is made dirty that the program does not write to: the sentinel. Once it is found clean, the bits tell nothing any more.
"""

from __future__ import annotations

import ctypes
import mmap
import os

from ..kernel import pagemap, procfs
from ..resources.memory.mapping import Mapping
from .tracker import Contents, Pagemap

NAME = "soft_dirty"
_CLEAR_REFS_SOFT_DIRTY = b"4"  # Documentation/filesystems/proc.rst, clear_refs
_WORD = 8


class SoftDirtyTracker:
    """The soft-dirty bits of one process."""

    name = NAME

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pagemap = Pagemap(pid)
        self._reset = False
        self.sentinel = 0
        """Address of the sentinel, once a reset was completed."""

    def content(self, mapping: Mapping, reset: bool) -> Contents:
        """Return the content of MAPPING."""
        self._reset = self._reset or reset
        return self._pagemap.content(mapping, pagemap.PAGE_IS_SOFT_DIRTY)

    def reset(self, mapping: Mapping) -> None:
        """Have all bits cleared by `settle`."""
        self._reset = True

    def settle(self) -> None:
        """Clear the bits of the whole process, if a reset was asked for."""
        if self._reset:
            self.sentinel = reset(self.pid)
            self._reset = False

    def close(self) -> None:
        """Close our descriptor."""
        self._pagemap.close()


def reset(pid: int) -> int:
    """Make every page of PID, which stands still, count as clean but for the sentinel; return its address, 0 for none. Raises OSError."""
    fd = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY)
    try:
        os.write(fd, _CLEAR_REFS_SOFT_DIRTY)
    finally:
        os.close(fd)
    sentinel = _find_sentinel(pid)
    if sentinel:
        procfs.write_memory(pid, sentinel, procfs.read_memory(pid, sentinel, _WORD))
    return sentinel


def _find_sentinel(pid: int) -> int:
    """Return the address of a page that was relocated and then made read-only; else of the end of the stack, where the environment is."""
    foreign = pagemap.PAGE_IS_FILE | pagemap.PAGE_IS_PFNZERO
    areas = procfs.maps(pid)
    fd = pagemap.open_pagemap(pid)
    try:
        for area in areas:
            if area.inode and not area.shared and "w" not in area.perms:
                for run in pagemap.filled_by_entries(fd, area.start, area.end):
                    if not run.categories & foreign:
                        return run.start
    finally:
        os.close(fd)
    return next((area.end - _WORD for area in areas if area.name == "[stack]"), 0)


def stands(pid: int, sentinel: int) -> bool:
    """Tell whether the SENTINEL of the last reset is still dirty, as it must be if nobody else has cleared the bits of PID since."""
    page = sentinel // pagemap.PAGE_SIZE * pagemap.PAGE_SIZE
    try:
        fd = pagemap.open_pagemap(pid)
    except procfs.GONE:
        return False
    try:
        return any(run.categories & pagemap.PAGE_IS_SOFT_DIRTY for run in pagemap.filled_by_entries(fd, page, page + pagemap.PAGE_SIZE))
    finally:
        os.close(fd)


def supported() -> bool:
    """Tell whether this kernel keeps soft-dirty bits: of a new page of our own, which was just written."""
    page = mmap.mmap(-1, pagemap.PAGE_SIZE)
    page[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fd = pagemap.open_pagemap(os.getpid())
    try:
        runs = list(pagemap.filled_by_entries(fd, address, address + pagemap.PAGE_SIZE))
    finally:
        os.close(fd)
    return any(run.categories & pagemap.PAGE_IS_SOFT_DIRTY for run in runs)
