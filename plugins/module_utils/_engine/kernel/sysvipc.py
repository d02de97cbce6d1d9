# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System V shared memory of our IPC namespace: the table of segments, and the calls (sysvipc(7), shmget(2), shmctl(2))."""

from __future__ import annotations

import os
import struct
from typing import Dict, NamedTuple, Tuple

from .syscall import syscall

# include/uapi/linux/ipc.h, shm.h
IPC_CREAT, IPC_EXCL = 0o1000, 0o2000
IPC_RMID, IPC_SET = 0, 1
IPC_PRIVATE = 0
SHM_DEST = 0o1000
SHM_RDONLY, SHM_EXEC = 0o10000, 0o100000
_TABLE = "/proc/sysvipc/shm"
_NEXT_ID = "/proc/sys/kernel/shm_next_id"
_IPC_PERM = struct.Struct("<i5I")  # key, uid, gid, cuid, cgid, mode: the head of struct shmid64_ds
_SHMID_DS_SIZE = 112


class Segment(NamedTuple):
    """A line of /proc/sysvipc/shm."""

    key: int
    id: int
    mode: int
    """Permissions, with SHM_DEST for one that goes with its last attachment."""
    size: int
    """Bytes, as asked for: not rounded up to pages."""
    creator: int
    """The process that made it."""
    attachments: int
    uid: int
    gid: int
    cuid: int
    cgid: int


def segments() -> Dict[int, Segment]:
    """Return all segments by their ids. Raises OSError when the kernel has none of this (CONFIG_SYSVIPC)."""
    with open(_TABLE, encoding="ascii") as file:
        lines = [line.split() for line in file.readlines()[1:]]
    found = [Segment(int(w[0]), int(w[1]), int(w[2], 8), int(w[3]), int(w[4]), *map(int, w[6:11])) for w in lines]
    return {segment.id: segment for segment in found}


def create(number: int, key: int, size: int, flags: int, creator: Tuple[int, int]) -> int:
    """Make the segment with id NUMBER (CONFIG_CHECKPOINT_RESTORE, Linux 3.8), made by CREATOR, a user and a group; return its id.

    FLAGS: permissions, SHM_HUGETLB with a size. Raises OSError: EEXIST when the key is taken. The id is another one when NUMBER was taken.
    """
    with open(_NEXT_ID, "w", encoding="ascii") as file:
        file.write(str(number))
    if creator == (os.geteuid(), os.getegid()):
        return syscall("shmget", key, size, IPC_CREAT | IPC_EXCL | flags)
    uid, gid = creator
    # by system calls of this thread alone, and not by those of the C library, which change all threads
    syscall("setresgid", -1, gid, -1)
    try:
        syscall("setresuid", -1, uid, -1)
        try:
            return syscall("shmget", key, size, IPC_CREAT | IPC_EXCL | flags)
        finally:
            syscall("setresuid", -1, 0, -1)
    finally:
        syscall("setresgid", -1, 0, -1)


def set_owner(number: int, uid: int, gid: int, mode: int) -> None:
    """Give segment NUMBER owner and permissions. Raises OSError."""
    syscall("shmctl", number, IPC_SET, _IPC_PERM.pack(0, uid, gid, 0, 0, mode & 0o777).ljust(_SHMID_DS_SIZE, b"\0"))


def remove(number: int) -> None:
    """Let segment NUMBER go with its last attachment. Raises OSError."""
    syscall("shmctl", number, IPC_RMID, 0)
