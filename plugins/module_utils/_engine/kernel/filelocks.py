# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""File locks and leases as the kernel lists them: `lock:` lines of /proc/PID/fdinfo and /proc/locks (proc_locks(5))."""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass

POSIX, FLOCK, OFD, LEASE = "POSIX", "FLOCK", "OFDLCK", "LEASE"
F_RDLCK, F_WRLCK, F_UNLCK = 0, 1, 2
"""asm-generic/fcntl.h."""
F_SETLK = 6
F_OFD_SETLK = 37
F_SETLEASE = 1024
LOCK_SH, LOCK_EX, LOCK_NB = 1, 2, 4
_TYPES = {"READ": F_RDLCK, "WRITE": F_WRLCK, "UNLCK": F_UNLCK}
_FLOCK = struct.Struct("=hhxxxxqqixxxx")
"""struct flock: type, whence, start, length (0: to the end of the file), process."""


@dataclass(frozen=True)
class FileLock:
    """One lock or lease."""

    kind: str
    """POSIX, FLOCK, OFDLCK, LEASE, or another word of the kernel's."""
    state: str
    """ADVISORY; of a lease ACTIVE, or BREAKING when its holder was asked to give it up."""
    type: int
    """F_RDLCK or F_WRLCK; of a breaking lease what it is to become."""
    pid: int
    """Who set it; -1 for an OFD lock, 0 for a process of another PID namespace."""
    device: tuple[int, int]
    inode: int
    start: int
    length: int
    """In bytes, 0: to the end of the file, wherever that will be."""

    @property
    def end(self) -> float:
        """The first byte behind it."""
        return self.start + self.length if self.length else float("inf")

    def is_of(self, status: os.stat_result) -> bool:
        """Tell whether the file of STATUS is the one that is locked."""
        return self.inode == status.st_ino and self.device == (os.major(status.st_dev), os.minor(status.st_dev))


def parse(line: str) -> FileLock | None:
    """Read "1: POSIX  ADVISORY  WRITE 123 08:01:4711 0 EOF"; None for one that waits ("1: -> POSIX …") and for no line at all."""
    words = line.split()
    if len(words) < 8 or words[1] == "->":
        return None
    major, minor, inode = words[5].split(":")
    start = int(words[6])
    length = 0 if words[7] == "EOF" else int(words[7]) + 1 - start
    return FileLock(words[1], words[2], _TYPES[words[3]], int(words[4]), (int(major, 16), int(minor, 16)), int(inode), start, length)


def holds_lease(fd: int) -> bool:
    """Tell whether the open file of our descriptor FD holds a lease; one for writing is the only open file of its inode."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_UNLCK
    except OSError:
        return False  # an O_PATH descriptor


def all_locks() -> list[FileLock]:
    """Return the locks that are held on this machine, as far as our PID namespace shows them.

    To read them makes the kernel wait for all processors (percpu_down_write), 10 ms and more.
    """
    with open("/proc/locks", encoding="utf-8") as file:
        return [lock for lock in map(parse, file) if lock is not None]


def request(kind: int, start: int, length: int) -> bytes:
    """Return the struct flock that asks for a lock of KIND (F_RDLCK, F_WRLCK)."""
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
