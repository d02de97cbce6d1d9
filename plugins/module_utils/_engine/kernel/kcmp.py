# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""kcmp(2): whether two processes, or two descriptors, share one kernel object (needs CONFIG_KCMP)."""

from __future__ import annotations

import struct
from functools import cmp_to_key
from typing import Any, Callable
from collections.abc import Sequence

from .syscall import syscall

KCMP_FILE = 0
KCMP_VM = 1
KCMP_FILES = 2
KCMP_FS = 3
KCMP_SIGHAND = 4
KCMP_IO = 5
KCMP_SYSVSEM = 6
KCMP_EPOLL_TFD = 7

_EPOLL_SLOT = struct.Struct("=III")
"""struct kcmp_epoll_slot: efd, tfd, toff."""


def kcmp(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
    """Compare two kernel objects: 0 the same, 1 less, 2 greater (an order that holds until reboot), 3 only not the same."""
    return syscall("kcmp", pid1, pid2, kind, index1, index2)


def order(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
    """Compare as `kcmp` does, answering -1, 0 or 1 as a comparison function for sorting."""
    return (0, -1, 1, 1)[kcmp(pid1, pid2, kind, index1, index2)]


def group(kind: int, owners: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the indices of OWNERS, each a (pid, index), in groups that share one object of KIND; n log n comparisons.

    Each group, and the list of groups, is in the order of OWNERS.
    """

    def compare(left: int, right: int) -> int:
        return order(owners[left][0], owners[right][0], kind, owners[left][1], owners[right][1])

    key: Callable[[int], Any] = cmp_to_key(compare)
    groups: list[list[int]] = []
    for index in sorted(range(len(owners)), key=key):
        if groups and compare(groups[-1][0], index) == 0:
            groups[-1].append(index)
        else:
            groups.append([index])
    return sorted(groups)


def is_epoll_target(file: tuple[int, int], epoll: tuple[int, int], tfd: int, offset: int) -> bool:
    """Tell whether FILE is what EPOLL watches as target TFD; both are descriptors, each with its process before it.

    OFFSET counts the targets of that number, in the order of /proc/PID/fdinfo (a closed number can be watched again).
    Linux 4.13. OSError: ENOENT when there is no such target.
    """
    return syscall("kcmp", file[0], epoll[0], KCMP_EPOLL_TFD, file[1], _EPOLL_SLOT.pack(epoll[1], tfd, offset)) == 0
