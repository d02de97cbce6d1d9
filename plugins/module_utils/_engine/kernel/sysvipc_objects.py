# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System V semaphores and message queues of our IPC namespace (sysvipc(7), semctl(2), msgctl(2), msgop(2): MSG_COPY, Linux 3.8)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Dict, List, NamedTuple, Sequence, Tuple

from .syscall import syscall
from .sysvipc import IPC_CREAT, IPC_EXCL, IPC_RMID, IPC_SET

SEMAPHORES, QUEUES = "sem", "msg"
# include/uapi/linux/{sem,ipc,msg}.h
_GETPID, _GETALL, _SETVAL, _IPC_STAT = 11, 13, 16, 2
_IPC_NOWAIT, _MSG_COPY = 0o4000, 0o40000
_IPC_PERM = struct.Struct("<i5I")  # key, uid, gid, cuid, cgid, mode: the head of struct {sem,msq}id64_ds
_DS_SIZE, _QBYTES = 256, struct.Struct("<Q")
_QBYTES_AT = 88
"""msg_qbytes of struct msqid64_ds: behind the permissions (48 bytes), three times, bytes and count."""
_TYPE = struct.Struct("<q")


class IpcObject(NamedTuple):
    """A line of /proc/sysvipc/sem or msg."""

    kind: str
    """SEMAPHORES or QUEUES."""
    key: int
    id: int
    mode: int
    held: int
    """Semaphores, or messages."""
    size: int
    """Bytes of all messages; 0 of semaphores."""
    users: Tuple[int, ...]
    """Processes that were the last to do something with it; 0 for none."""
    uid: int
    gid: int
    cuid: int
    cgid: int


def objects() -> Dict[Tuple[str, int], IpcObject]:
    """Return all by kind and id; none where the kernel has none of this (CONFIG_SYSVIPC). Raises OSError."""
    found = [_semaphores(line) for line in _table(SEMAPHORES)] + [_queue(line) for line in _table(QUEUES)]
    return {(one.kind, one.id): one for one in found}


def _table(kind: str) -> List[List[int]]:
    try:
        with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
            return [[int(word, 8 if place == 2 else 10) for place, word in enumerate(line.split())] for line in file.readlines()[1:]]
    except FileNotFoundError:
        return []


def _semaphores(line: Sequence[int]) -> IpcObject:
    key, number, mode, count, uid, gid, cuid, cgid = line[:8]
    try:
        users = {syscall("semctl", number, place, _GETPID, 0) for place in range(count)}
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EIDRM, errno.EINVAL):
            raise
        users = set()  # none that we may read, or it has just gone
    return IpcObject(SEMAPHORES, key, number, mode, count, 0, tuple(users), uid, gid, cuid, cgid)


def _queue(line: Sequence[int]) -> IpcObject:
    key, number, mode, size, count, sender, receiver, uid, gid, cuid, cgid = line[:11]
    return IpcObject(QUEUES, key, number, mode, count, size, (sender, receiver), uid, gid, cuid, cgid)


def values(one: IpcObject) -> bytes:
    """Return the values of semaphores, two bytes each. Raises OSError."""
    found = ctypes.create_string_buffer(2 * one.held)
    syscall("semctl", one.id, 0, _GETALL, found)
    return found.raw


def set_values(number: int, wanted: bytes, found: bytes) -> None:
    """Give the semaphores NUMBER the values WANTED where they have others: FOUND. Raises OSError."""
    for place, (new, old) in enumerate(zip(struct.unpack(f"<{len(wanted) // 2}H", wanted), struct.unpack(f"<{len(found) // 2}H", found))):
        if new != old:
            syscall("semctl", number, place, _SETVAL, new)


def messages(one: IpcObject) -> List[Tuple[int, bytes]]:
    """Return type and content of each message of a queue, which keeps them. Raises OSError."""
    return [_receive(one.id, one.size, place, _MSG_COPY) for place in range(one.held)]


def set_messages(number: int, size: int, wanted: Sequence[Tuple[int, bytes]]) -> None:
    """Have queue NUMBER, of SIZE bytes now, hold the messages WANTED and no others. Raises OSError."""
    try:
        while True:
            _receive(number, size, 0, 0)
    except OSError as error:
        if error.errno != errno.ENOMSG:
            raise
    for kind, content in wanted:
        syscall("msgsnd", number, _TYPE.pack(kind) + content, len(content), _IPC_NOWAIT)


def _receive(number: int, size: int, place: int, flags: int) -> Tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(_TYPE.size + size)
    length = syscall("msgrcv", number, buffer, size, place, _IPC_NOWAIT | flags)
    return _TYPE.unpack_from(buffer.raw)[0], buffer.raw[_TYPE.size : _TYPE.size + length]


def queue_bytes(number: int) -> int:
    """Return how many bytes queue NUMBER may hold. Raises OSError."""
    buffer = ctypes.create_string_buffer(_DS_SIZE)
    syscall("msgctl", number, _IPC_STAT, buffer)
    return int(_QBYTES.unpack_from(buffer.raw, _QBYTES_AT)[0])


def create(kind: str, number: int, key: int, mode: int, count: int, creator: Tuple[int, int]) -> int:
    """Make an object of KIND with id NUMBER, of COUNT semaphores, made by CREATOR, a user and a group; return its id.

    The id is another one when NUMBER was taken. Raises OSError: EEXIST when the key is taken.
    """
    with open(f"/proc/sys/kernel/{kind}_next_id", "w", encoding="ascii") as file:
        file.write(str(number))
    flags = IPC_CREAT | IPC_EXCL | mode & 0o777
    arguments = (key, count, flags) if kind == SEMAPHORES else (key, flags)
    if creator == (os.geteuid(), os.getegid()):
        return syscall(f"{kind}get", *arguments)
    # by system calls of this thread alone, and not by those of the C library, which change all threads
    syscall("setresgid", -1, creator[1], -1)
    try:
        syscall("setresuid", -1, creator[0], -1)
        try:
            return syscall(f"{kind}get", *arguments)
        finally:
            syscall("setresuid", -1, 0, -1)
    finally:
        syscall("setresgid", -1, 0, -1)


def set_owner(kind: str, number: int, uid: int, gid: int, mode: int, bytes_at_most: int) -> None:
    """Give an object owner and permissions, and a queue the bytes that it may hold. Raises OSError."""
    buffer = bytearray(_DS_SIZE)
    _IPC_PERM.pack_into(buffer, 0, 0, uid, gid, 0, 0, mode & 0o777)
    _QBYTES.pack_into(buffer, _QBYTES_AT, bytes_at_most)
    arguments = (0, IPC_SET, bytes(buffer)) if kind == SEMAPHORES else (IPC_SET, bytes(buffer))
    syscall(f"{kind}ctl", number, *arguments)


def remove(kind: str, number: int) -> None:
    """Remove an object. Raises OSError."""
    syscall(f"{kind}ctl", number, *((0, IPC_RMID, 0) if kind == SEMAPHORES else (IPC_RMID, 0)))
