# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The zero page among entries of /proc/PID/pagemap: it has no bit there, so it is told by its page frame.

A page that was given back (MADV_DONTNEED) and is then read is the zero page, and not soft-dirty: were it not told apart,
it would pass for an unchanged page. The huge zero page has the bit of a file's page there (fs/proc/task_mmu.c, Linux 6.1).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from functools import cache

_ENTRY_SIZE = 8
# Documentation/admin-guide/mm/pagemap.rst: the bytes of an entry's page frame, and bits of the byte above them
_FRAME = bytes.fromhex("ffffffffffff7f")
_PRESENT, _SWAPPED, _FILE = 0x80, 0x40, 0x20


def told_apart() -> bool:
    """Tell whether this process may see page frames (CAP_SYS_ADMIN), and so can tell the zero page."""
    return any(_frame())


def mark(entries: bytes, category: int) -> int:
    """Return CATEGORY for each of ENTRIES that is the zero page and 0 for the others: the bytes of a little-endian number."""
    wanted = _frame() + bytes([_PRESENT])
    if wanted[:-2] not in entries:
        return 0
    masks = _FRAME + bytes([_PRESENT | _SWAPPED | _FILE])
    found = -1
    for at in range(_ENTRY_SIZE):
        same = bytes(category if byte & masks[at] == wanted[at] else 0 for byte in range(256))
        found &= int.from_bytes(entries[at :: _ENTRY_SIZE].translate(same), "little")
    return found


@cache
def _frame() -> bytes:
    """Return the frame of the zero page as an entry has it, the same since the boot; all zero when it is hidden from us."""
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        page.madvise(mmap.MADV_NOHUGEPAGE)
    page.read(1)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entry = os.pread(fd, _ENTRY_SIZE, address // mmap.PAGESIZE * _ENTRY_SIZE)
    finally:
        os.close(fd)
    return bytes(byte & mask for byte, mask in zip(entry, _FRAME))
