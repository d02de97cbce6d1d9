# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages of hugetlbfs: which sizes there are, how many are free, and the filesystems, mounted nowhere, that they are on.

A size is told by its binary logarithm, as in the flags of mmap(2), memfd_create(2) and shmget(2): 21 for 2 MiB.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Dict, List

from .syscall import syscall

# include/uapi/asm-generic/mman-common.h, linux/memfd.h, linux/shm.h, asm-generic/hugetlb_encode.h
MAP_HUGETLB = 0x40000
MFD_HUGETLB = 0x4
SHM_HUGETLB = 0o4000
_SHIFT_AT, _SHIFT_MASK = 26, 0x3F
_MFD_CLOEXEC = 0x1
_SIZES = "/sys/kernel/mm/hugepages"
_PREFIX, _SUFFIX = "hugepages-", "kB"


def encoded(shift: int) -> int:
    """Return the bits of flags that name the size SHIFT."""
    return shift << _SHIFT_AT


def shift_of(flags: int) -> int:
    """Return the size that FLAGS name, 0 for none: the machine's own."""
    return flags >> _SHIFT_AT & _SHIFT_MASK


def shifts() -> List[int]:
    """Return the sizes that this machine has."""
    try:
        names = os.listdir(_SIZES)
    except FileNotFoundError:  # a kernel without hugetlbfs
        return []
    return sorted((int(name[len(_PREFIX) : -len(_SUFFIX)]) << 10).bit_length() - 1 for name in names)


def devices() -> Dict[int, int]:
    """Return the size of the pages of each filesystem, by its st_dev."""
    found: Dict[int, int] = {}
    for shift in shifts():
        with suppress(OSError):
            fd = syscall("memfd_create", b"stillframe\0", _MFD_CLOEXEC | MFD_HUGETLB | encoded(shift))
            found[os.fstat(fd).st_dev] = shift
            os.close(fd)
    return found


def free(shift: int) -> int:
    """Return how many pages of the size SHIFT can still be had: free, or made when they are asked for."""
    return _count(shift, "free") - _count(shift, "resv") + _count(shift, "nr_overcommit") - _count(shift, "surplus")


def _count(shift: int, what: str) -> int:
    with open(f"{_SIZES}/{_PREFIX}{1 << shift - 10}{_SUFFIX}/{what}_hugepages", encoding="ascii") as file:
        return int(file.read())
