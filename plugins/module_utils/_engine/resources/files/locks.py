# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""File locks and leases: POSIX locks of a process, flock(2) and OFD locks of an open file, leases (fcntl(2)).

images: filelocks (file_lock_entry: kind, type, and the descriptor that it is set by). Who waits for a lock makes its system
call again. A lease that is being broken is broken anew: its holder has /proc/sys/fs/lease-break-time again, but no second signal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import Obstacle, RestoreError
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.filelocks import F_OFD_SETLK, F_RDLCK, F_SETLEASE, F_SETLK, F_UNLCK, F_WRLCK, FLOCK, LEASE, LOCK_EX, LOCK_NB, LOCK_SH
from ...kernel.filelocks import OFD, POSIX, FileLock, all_locks, parse, request
from ...kernel.procfs import lives
from .kind import Descriptor, Entry, OpenFile, Stub
from .status import F_SETOWN_EX, set_owner
from .survey import Table

IMAGE = "filelocks"
KINDS: Mapping[str, int] = {POSIX: 1, FLOCK: 2, OFD: 4, LEASE: 8}
"""Values of file_lock_entry.flag (criu/include/file-lock.h)."""
LEASE_BREAKING = 4
"""A bit of file_lock_entry.type."""
_KIND_OF = {number: kind for kind, number in KINDS.items()}
_NOBODY = bytes(8)
"""struct f_owner_ex of no process."""
_RELEASE = "have the program release the lock"


class LocksDump:
    """The locks of a tree on their way into the images."""

    def __init__(self, allowed: bool) -> None:
        """ALLOWED: whether locks are to be carried."""
        self._allowed = allowed
        self._entries: list[Entry] = []

    def check(self, file: OpenFile, owners: Sequence[int]) -> Iterator[Obstacle]:
        """Return what keeps the locks on FILE, a descriptor of the tasks OWNERS, from being carried."""
        for lock in held(file):
            if lock.kind not in KINDS or lock.state not in ("ADVISORY", "ACTIVE", "BREAKING"):
                yield file.obstacle(f"a lock of a kind that is not carried ({lock.kind} {lock.state})", _RELEASE)
            elif lock.kind == POSIX and lock.pid not in owners:
                if not lives(lock.pid):
                    why = f"it is locked by process {lock.pid}, which has ended and left the lock to those who share its descriptors"
                    yield file.obstacle(why, _RELEASE)
            elif lock.kind == LEASE and file.stat.st_nlink == 0:
                yield file.obstacle("a lease on an unlinked file, whose content cannot be read without breaking it", _RELEASE)
            elif not self._allowed:
                why = "the process holds a lock or a lease on it"
                yield file.obstacle(why, f"use file_locks at the dump and at the restore, or {_RELEASE}")

    def collect(self, tables: Iterable[Table], descriptions: Iterable[Sequence[OpenFile]]) -> None:
        """Keep the locks: those of a process by each table, those of an open file by the first descriptor of it."""
        for table in tables:
            self._entries += _posix(table)
        for shared in descriptions:
            self._entries += [_entry(shared[0], lock) for lock in held(shared[0]) if lock.kind != POSIX]

    def write(self, images: ImagesDir) -> None:
        """Write the image."""
        if self._entries:
            images.write(IMAGE, self._entries)


def held(file: OpenFile) -> list[FileLock]:
    """Return the locks that fdinfo shows of FILE; an O_PATH descriptor shows those of others."""
    if file.flags & os.O_PATH:
        return []
    return [lock for lock in map(parse, file.info.locks) if lock is not None]


def _posix(table: Table) -> list[Entry]:
    """Return the POSIX locks of TABLE, each by a descriptor that is open for it: all of the same file show it."""
    found: dict[FileLock, Entry] = {}
    for file in table.files:
        for lock in held(file):
            fits = file.flags & os.O_ACCMODE in (os.O_RDWR, os.O_WRONLY if lock.type == F_WRLCK else os.O_RDONLY)
            if lock.kind == POSIX and lock.pid in table.pids and fits:
                found.setdefault(lock, _entry(file, lock))
    return list(found.values())


def _entry(file: OpenFile, lock: FileLock) -> Entry:
    pid = lock.pid if lock.kind == POSIX else file.pid
    kind = lock.type | (LEASE_BREAKING if lock.state == "BREAKING" else 0)
    return message("file_lock_entry")(flag=KINDS[lock.kind], type=kind, pid=pid, fd=file.fd, start=lock.start, len=lock.length)


class LocksRestore:
    """The locks of the images, set again by the tasks that held them."""

    def __init__(self, images: ImagesDir, allowed: bool) -> None:
        self._entries: Sequence[Entry] = images.read(IMAGE) if images.has(IMAGE) else []
        self._allowed = allowed

    def check(self, paths: Mapping[tuple[int, int], str]) -> Iterator[Obstacle]:
        """Return what keeps the locks from being set here; PATHS of the files by (pid, fd) where they have one."""
        if self._entries and not self._allowed:
            where = f"fd {self._entries[0].fd}"
            why = f"the dump holds {len(self._entries)} file locks"
            yield Obstacle(self._entries[0].pid, where, why, "use file_locks, as at the dump")
            return
        others = all_locks() if self._entries else []
        for entry in self._entries:
            path = paths.get((entry.pid, entry.fd), "")
            if path and os.path.exists(path):
                status = os.stat(path)
                for other in [other for other in others if other.is_of(status) and _conflicts(entry, other)]:
                    why = f"it was locked in the tree and is locked by {_name(other)} now"
                    yield Obstacle(entry.pid, f"fd {entry.fd} ({path})", why, "end what holds the lock")

    def set(self, pid: int, stub: Stub, descriptors: Sequence[Descriptor], owners: Mapping[int, Entry]) -> None:
        """Have task PID set its locks, when it closes nothing any more; OWNERS: entry with flags and fown by file id.

        Raises RestoreError when one is taken.
        """
        by_number = {descriptor.fd: descriptor for descriptor in descriptors}
        for entry in self._entries:
            if entry.pid == pid:
                try:
                    descriptor = by_number[entry.fd]
                    _set(entry, stub, descriptor, owners.get(descriptor.file_id))
                except (OSError, KeyError) as error:
                    raise RestoreError(
                        f"the lock that process {pid} held by fd {entry.fd} cannot be set again ({error}); end what holds that file"
                    ) from error


def _conflicts(entry: Entry, other: FileLock) -> bool:
    kind = _KIND_OF[entry.flag]
    alike = (kind == FLOCK) == (other.kind == FLOCK) and LEASE not in (kind, other.kind)
    end = entry.start + entry.len if entry.len else float("inf")
    overlap = entry.start < other.end and other.start < end
    return alike and overlap and F_WRLCK in (entry.type, other.type)


def _name(lock: FileLock) -> str:
    return f"process {lock.pid}" if lock.pid > 0 else "another process"


def _set(entry: Entry, stub: Stub, descriptor: Descriptor, file: Entry | None) -> None:
    kind = _KIND_OF[entry.flag]
    if kind == FLOCK:
        stub.call("flock", entry.fd, (LOCK_EX if entry.type == F_WRLCK else LOCK_SH) | LOCK_NB)
    elif kind == LEASE:
        _set_lease(entry, stub, descriptor, file)
    else:
        stub.call("fcntl", entry.fd, F_SETLK if kind == POSIX else F_OFD_SETLK, request(entry.type, entry.start, entry.len))


def _set_lease(entry: Entry, stub: Stub, descriptor: Descriptor, file: Entry | None) -> None:
    """Set a lease, and break it if it was being broken. Meanwhile nobody owns the file, so that no signal is sent."""
    target, breaking = entry.type & ~LEASE_BREAKING, entry.type & LEASE_BREAKING
    if not breaking:
        stub.call("fcntl", entry.fd, F_SETLEASE, target)
    else:
        reads_only = file is not None and file.flags & os.O_ACCMODE == os.O_RDONLY
        stub.call("fcntl", entry.fd, F_SETLEASE, F_RDLCK if reads_only and target == F_UNLCK else F_WRLCK)
    stub.call("fcntl", entry.fd, F_SETOWN_EX, _NOBODY)  # setting a lease has made the task the owner
    if breaking:
        _break(descriptor.local, os.O_RDONLY if target == F_RDLCK else os.O_WRONLY)
    if file is not None:
        set_owner(stub, entry.fd, file.flags, file.fown)


def _break(local: int, access: int) -> None:
    """Break the lease on our descriptor LOCAL by opening its file, which does not wait for the holder."""
    try:
        os.close(os.open(f"/proc/self/fd/{local}", access | os.O_NONBLOCK | os.O_CLOEXEC))
    except BlockingIOError:
        return
    raise OSError(f"the lease on {os.readlink(f'/proc/self/fd/{local}')} was not there to be broken")
