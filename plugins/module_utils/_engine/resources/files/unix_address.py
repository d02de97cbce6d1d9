# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of unix sockets: paths, absolute or relative to a directory, also unlinked ones, and abstract names (unix(7)).

images: name, name_dir, deleted and file_perms of unix_sk_entry.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...errors import Obstacle, RestoreError
from ...kernel.sock_diag import UnixSockets
from ...kernel.syscall import syscall
from ..mounts.view import TreeView
from .kind import Entry, OpenFile, Undo
from .regular import plain_path

SIOCUNIXFILE = 0x89E0
"""Linux 4.10: a descriptor (O_PATH) of the file that a socket is bound to; needs CAP_NET_ADMIN."""
_FAMILY = struct.Struct("=H")
_PARKED = ".stillframe-parked"


def display(name: bytes) -> str:
    """Return an address for a person: "@" stands before an abstract name."""
    if name.startswith(b"\0"):
        return "@" + name[1:].replace(b"\0", b"@").decode("utf-8", "backslashreplace")
    return name.rstrip(b"\0").decode("utf-8", "backslashreplace")


def is_bound_outside(file: OpenFile, view: TreeView) -> bool:
    """Tell whether FILE, a socket with a path, was bound outside of the mount namespace of the tree. Raises OSError."""
    if not view.foreign:
        return False
    bound = fcntl.ioctl(file.local, SIOCUNIXFILE)
    try:
        return view.outside(bound)
    finally:
        os.close(bound)


def check_path(file: OpenFile, name: bytes, view: TreeView) -> Iterator[Obstacle]:
    """Refuse a socket whose path NAME leads elsewhere by now, or from a directory that cannot be told."""
    status, path = _bound_file(file)
    relative = os.fsdecode(name.rstrip(b"\0"))
    if _directory_of(file, relative, plain_path(path, status, view), status, view) is None:
        yield file.obstacle(f"it is bound to {relative}, and its socket is {path} by now", "have the program bind it again")


def read_path(file: OpenFile, entry: Entry, view: TreeView) -> None:
    """Fill in what ENTRY says of the path that its socket is bound to: permissions, directory, whether it was unlinked."""
    status, path = _bound_file(file)
    entry.file_perms.mode, entry.file_perms.uid, entry.file_perms.gid = status.st_mode, status.st_uid, status.st_gid
    plain = plain_path(path, status, view)
    if plain != path:
        entry.deleted = True
    directory = _directory_of(file, os.fsdecode(entry.name.rstrip(b"\0")), plain, status, view)
    if directory:
        entry.name_dir = directory


def _bound_file(file: OpenFile) -> tuple[os.stat_result, str]:
    """Return what the socket is bound to, and its path as /proc shows it."""
    bound = fcntl.ioctl(file.local, SIOCUNIXFILE)
    try:
        return os.fstat(bound), os.readlink(f"/proc/self/fd/{bound}")
    finally:
        os.close(bound)


def _directory_of(file: OpenFile, name: str, path: str, status: os.stat_result, view: TreeView) -> str | None:
    """Return the directory that NAME, which leads to the file at PATH, is relative to, "" if to none; None when it leads elsewhere."""
    plain = os.path.normpath(name)
    if name.startswith("/"):
        return "" if plain == path or not status.st_nlink or _is_at(name, status, view) else None
    if path.endswith(f"/{plain}"):
        return path[: -len(plain) - 1] or "/"
    try:
        directory = os.readlink(f"/proc/{file.pid}/cwd")
    except OSError:
        return None
    return directory if _is_at(os.path.join(directory, name), status, view) else None


def _is_at(path: str, status: os.stat_result, view: TreeView) -> bool:
    try:
        return os.path.samestat(view.lstat(path) if view.foreign else os.stat(path), status)
    except OSError:
        return False


class NamesRestore:
    """Binds sockets to their names and connects sockets to names."""

    def __init__(self, undo: Undo) -> None:
        self._undo = undo
        self._unlinked: dict[int, int] = {}
        """O_PATH descriptors of paths that were unlinked again, by the inode numbers of the sockets."""

    def check(self, entries: Sequence[Entry]) -> Iterator[Obstacle]:
        """Refuse names that live sockets of this machine have, and paths that cannot be bound."""
        if not entries:
            return
        with UnixSockets() as table:
            live = table.all()
        abstract = {sock.name for sock in live if sock.name.startswith(b"\0")}
        bound = {sock.vfs for sock in live if sock.vfs}
        for entry in entries:
            if entry.name.startswith(b"\0"):
                if entry.name in abstract:
                    where = f"unix socket {display(entry.name)}"
                    yield Obstacle(0, where, "a process of this machine has the name", "stop that process")
            elif not entry.deleted:
                yield from _check_path(_path(entry), bound)

    def clear(self, entries: Sequence[Entry]) -> None:
        """Unlink the sockets that the ended tree left at the paths of ENTRIES. OSError when one cannot be."""
        for entry in entries:
            path = _path(entry)
            if not entry.name.startswith(b"\0") and not entry.deleted and os.path.lexists(path):
                if not stat.S_ISSOCK(os.lstat(path).st_mode):
                    raise RestoreError(f"{path} is no socket, so it is left alone; remove it")
                os.unlink(path)

    def bind(self, local: int, entry: Entry) -> None:
        """Bind our socket LOCAL to the name of ENTRY, with its owner and mode. OSError when it is taken."""
        if entry.name.startswith(b"\0"):
            _call("bind", local, entry.name)
        elif entry.deleted:
            with _standing(os.path.dirname(_path(entry))), _parked(_path(entry)):
                self._bind_path(local, entry)
                self._unlinked[entry.ino] = os.open(_path(entry), os.O_PATH | os.O_CLOEXEC)
                os.unlink(_path(entry))
        else:
            self._bind_path(local, entry)
            path = _path(entry)
            self._undo(lambda: os.unlink(path))

    def connect(self, local: int, peer: Entry) -> None:
        """Connect our socket LOCAL to the name of PEER. OSError when nothing listens there."""
        if peer.ino in self._unlinked:
            _call("connect", local, b"/proc/self/fd/%d\0" % self._unlinked[peer.ino])
            return
        with _directory(peer.name_dir):
            _call("connect", local, peer.name)

    def close(self) -> None:
        """Drop our descriptors."""
        while self._unlinked:
            os.close(self._unlinked.popitem()[1])

    def _bind_path(self, local: int, entry: Entry) -> None:
        umask = os.umask(0o177)  # nobody is to connect before it has its mode
        try:
            with _directory(entry.name_dir):
                _call("bind", local, entry.name)
        finally:
            os.umask(umask)
        if entry.HasField("file_perms"):
            os.chown(_path(entry), entry.file_perms.uid, entry.file_perms.gid)
            os.chmod(_path(entry), stat.S_IMODE(entry.file_perms.mode))


def _call(name: str, local: int, address: bytes) -> None:
    """Bind or connect to an address as the kernel keeps it, NUL bytes included, which Python's own calls change."""
    data = _FAMILY.pack(socket.AF_UNIX) + address
    syscall(name, local, data, len(data))


def _path(entry: Entry) -> str:
    return os.path.join(entry.name_dir or "/", os.fsdecode(entry.name.rstrip(b"\0")))


def _check_path(path: str, bound: set[tuple[int, int]]) -> Iterator[Obstacle]:
    where = f"unix socket {path}"
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path)):
            yield Obstacle(0, where, f"the directory {os.path.dirname(path)} is missing", "make the directory")
        return
    if not stat.S_ISSOCK(found.st_mode):
        yield Obstacle(0, where, "something else has its path", f"remove {path}")
    elif (found.st_ino & 0xFFFFFFFF, os.major(found.st_dev) << 20 | os.minor(found.st_dev)) in bound:
        yield Obstacle(0, where, "a process of this machine has the name", "stop that process")


@contextmanager
def _directory(path: str) -> Iterator[None]:
    """Work in directory PATH for the length of the block, unless it is empty."""
    if not path:
        yield
        return
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(path)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def _standing(directory: str) -> Iterator[None]:
    """Have DIRECTORY for the length of the block: what is missing of it is made, and removed again."""
    missing: list[str] = []
    while not os.path.lexists(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    made: list[str] = []
    try:
        for path in reversed(missing):
            os.mkdir(path, 0o700)
            made.append(path)
        yield
    finally:
        for path in reversed(made):
            os.rmdir(path)


@contextmanager
def _parked(path: str) -> Iterator[None]:
    """Keep PATH free for the length of the block: what is there comes back afterwards."""
    if not os.path.lexists(path):
        yield
        return
    os.rename(path, path + _PARKED)
    try:
        yield
    finally:
        os.rename(path + _PARKED, path)
