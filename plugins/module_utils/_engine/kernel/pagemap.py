# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a process hold content, and which were written: PAGEMAP_SCAN (Linux 6.7), or /proc/PID/pagemap itself.

Never a loop over pages: the kernel answers in runs, and where it cannot, a regular expression finds them.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from array import array
from typing import Iterable, Iterator, NamedTuple, Tuple

from . import zero_page

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

# include/uapi/linux/fs.h
PAGEMAP_SCAN = 0xC0606610
PAGE_IS_WPALLOWED = 1 << 0
PAGE_IS_WRITTEN = 1 << 1
PAGE_IS_FILE = 1 << 2
PAGE_IS_PRESENT = 1 << 3
PAGE_IS_SWAPPED = 1 << 4
PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6
PAGE_IS_SOFT_DIRTY = 1 << 7
PAGE_IS_GUARD = 1 << 8  # Linux 6.15
PM_SCAN_WP_MATCHING = 1 << 0
PM_SCAN_CHECK_WPASYNC = 1 << 1
_ARG = struct.Struct("<12Q")  # struct pm_scan_arg
_REGION_SIZE = 24  # struct page_region
_RUN_WORDS = _REGION_SIZE // 8
_REGIONS = 4096

_FILLED = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
_RETURNED = _FILLED | PAGE_IS_PFNZERO


class Run(NamedTuple):
    """Neighbouring pages with the same categories (PAGE_IS_…); addresses in bytes."""

    start: int
    end: int
    categories: int

    @property
    def pages(self) -> int:
        return (self.end - self.start) // PAGE_SIZE


class Runs:
    """Runs as the kernel told them, 24 bytes each: a big process has millions."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._words = array("Q")
        for run in runs:
            self._words.extend(run)

    def __len__(self) -> int:
        return len(self._words) // _RUN_WORDS

    def __iter__(self) -> Iterator[Run]:
        return map(Run._make, self.triples())

    def triples(self) -> Iterator[Tuple[int, int, int]]:
        """Yield start, end and categories of each run, for who has many to go through while a task stands still."""
        words = iter(self._words)
        return zip(words, words, words)

    def extend(self, regions: array[int]) -> None:
        """Add REGIONS, three words each, that come after all others."""
        self._words.extend(regions)

    @property
    def end(self) -> int:
        """The address after the last run."""
        return self._words[-2]


def open_pagemap(pid: int) -> int:
    """Return a descriptor of /proc/PID/pagemap, for the functions of this file."""
    return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)


def has_scan(pagemap: int) -> bool:
    """Tell whether the kernel has PAGEMAP_SCAN."""
    try:
        fcntl.ioctl(pagemap, PAGEMAP_SCAN, bytearray(_ARG.pack(_ARG.size, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)))
    except OSError:
        return False
    return True


def tells_guards(pagemap: int) -> bool:
    """Tell whether the kernel has PAGEMAP_SCAN, and tells the pages of guard regions by it."""
    try:
        fcntl.ioctl(pagemap, PAGEMAP_SCAN, bytearray(_ARG.pack(_ARG.size, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, PAGE_IS_GUARD)))
    except OSError:
        return False
    return True


def filled(pagemap: int, start: int, end: int, dirty: int = 0, protect: bool = False, file: bool = True, without: int = 0) -> Runs:
    """Return the runs of pages from START to END that hold content, in memory or swapped out.

    DIRTY names the category that tells a changed page (PAGE_IS_WRITTEN, PAGE_IS_SOFT_DIRTY, or 0). With PROTECT the
    written pages of a mapping that is registered for write-protection are protected again in the same step. Without
    FILE a page of a file is not told apart, which takes five times as long: the kernel looks at every page for it.
    Pages of the category WITHOUT are left out: a guard region's page is a swapped one else.
    """
    flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC if protect else 0
    return scan(pagemap, start, end, flags, _FILLED, _RETURNED | dirty | (PAGE_IS_FILE if file else 0), without)


def protect(pagemap: int, start: int, end: int) -> None:
    """Write-protect the pages from START to END that hold content, of a mapping that is registered for it. Raises OSError: EPERM when not.

    Only those that are not protected yet: the kernel writes the entry of every page that it is told to protect. Not without room for an
    answer: it sorts no page then, and marks also those that are not there, which count as swapped from then on (fs/proc/task_mmu.c,
    Linux 6.18).
    """
    scan(pagemap, start, end, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC, _FILLED, PAGE_IS_WPALLOWED, allof=PAGE_IS_WRITTEN)


def scan(pagemap: int, start: int, end: int, flags: int, anyof: int, returned: int, without: int = 0, allof: int = 0) -> Runs:
    """Return the runs from START to END of pages in any of the categories ANYOF, in ALLOF but not in WITHOUT, telling those in RETURNED.

    Raises OSError: EPERM with PM_SCAN_CHECK_WPASYNC when a mapping is not registered.
    """
    found, regions = Runs(), array("Q", bytes(_REGION_SIZE * _REGIONS))
    address = regions.buffer_info()[0]
    while start < end:
        arg = bytearray(_ARG.pack(_ARG.size, flags, start, end, 0, address, _REGIONS, 0, without, without | allof, anyof, returned))
        count = fcntl.ioctl(pagemap, PAGEMAP_SCAN, arg)
        found.extend(regions[: _RUN_WORDS * count])
        # walk_end can't be asked: a walk of more than 512 regions that comes to its end leaves it at an earlier address (Linux 6.18)
        start = found.end if count == _REGIONS else end
    return found


# Documentation/admin-guide/mm/pagemap.rst: the bits of an entry, here of its highest two bytes
_ENTRY_PRESENT, _ENTRY_SWAPPED, _ENTRY_FILE, _ENTRY_GUARD, _ENTRY_EXCLUSIVE = 0x80, 0x40, 0x20, 0x04, 0x01
_ENTRY_SOFT_DIRTY = 0x80
_CHUNK_PAGES = 1 << 16
_NOTHING = bytes(_CHUNK_PAGES)
_SAME = re.compile(rb"([^\0])\1*", re.DOTALL)


def _categories(entry: int) -> int:
    """Return the categories that the highest byte of an entry tells; none of a guard region's page."""
    if entry & _ENTRY_GUARD:
        return 0
    present, swapped = entry & _ENTRY_PRESENT, entry & _ENTRY_SWAPPED
    file = entry & _ENTRY_FILE and (present or swapped)
    return (PAGE_IS_PRESENT if present else 0) | (PAGE_IS_SWAPPED if swapped else 0) | (PAGE_IS_FILE if file else 0)


def _doubtful(entry: int) -> bool:
    """Tell whether the highest byte of an entry may be a zero page's."""
    return entry & (_ENTRY_PRESENT | _ENTRY_FILE | _ENTRY_EXCLUSIVE) == _ENTRY_PRESENT


_HIGH = bytes(_categories(entry) for entry in range(256))
_HIGH_DOUBTED = bytes(_categories(entry) | (PAGE_IS_SOFT_DIRTY if _doubtful(entry) else 0) for entry in range(256))
_LOW = bytes(PAGE_IS_SOFT_DIRTY if entry & _ENTRY_SOFT_DIRTY else 0 for entry in range(256))


def filled_by_entries(pagemap: int, start: int, end: int) -> Iterator[Run]:
    """Yield what `filled` does for PAGE_IS_SOFT_DIRTY, on kernels without PAGEMAP_SCAN. The huge zero page is a PAGE_IS_FILE here.

    Where the zero page cannot be told, what may be it counts as changed: so does then what is shared since a fork(2).
    """
    zeros = zero_page.told_apart()
    for at in range(start, end, _CHUNK_PAGES * PAGE_SIZE):
        pages = min(_CHUNK_PAGES, (end - at) // PAGE_SIZE)
        entries = os.pread(pagemap, pages * 8, at // PAGE_SIZE * 8)
        high = entries[7::8].translate(_HIGH if zeros else _HIGH_DOUBTED)
        if high == _NOTHING[:pages]:  # a program may reserve terabytes that it never uses
            continue
        low = entries[6::8].translate(_LOW)
        both = int.from_bytes(high, "little") | int.from_bytes(low, "little")
        if zeros:
            both |= zero_page.mark(entries, PAGE_IS_PFNZERO)
        for match in _SAME.finditer(both.to_bytes(pages, "little")):
            categories = match.group(1)[0]
            if categories & _FILLED:
                yield Run(at + match.start() * PAGE_SIZE, at + match.end() * PAGE_SIZE, categories)
