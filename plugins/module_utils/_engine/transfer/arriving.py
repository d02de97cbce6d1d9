# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that move along with a tree, as the destination sees them: beside the old ones until the tree is about to run here.

What comes is written into a file without a name (O_TMPFILE), which is gone should we be killed. For the restore, whose tree is to
have the new files open, it gets a name beside the old one's, and only when the source has decided do both change places
(renameat2), so that a move that fails even then can put them back. The new names are written down, for the next receiver
to tidy up should this one be killed just then.
"""

from __future__ import annotations

import base64
import binascii
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ..errors import ImagesError, MoveError, Obstacle
from ..kernel import procfs
from ..kernel.exchange import exchange
from .carried import Carried, filesystems
from .codec import garbled, unpack, unpack_part
from .journal import Journal, Placed

_MOST = 4096
_NO_SUCH = (errno.EOPNOTSUPP, errno.EISDIR)
"""What filesystems without O_TMPFILE say (open(2))."""
_SPARE = 16 << 20
"""Bytes that are to stay free on a disk."""


@dataclass(frozen=True)
class Meta:
    """What a file is to be like but for its content."""

    path: str
    size: int
    mode: int
    owner: tuple[int, int]
    times: tuple[int, int]
    xattrs: Mapping[str, bytes]
    last: bool
    """It belongs to the tree as it is in the end."""

    @staticmethod
    def read(body: memoryview) -> Meta:
        """Return what BODY tells. Raises MoveError."""
        values = unpack(body)
        try:
            owner, times = tuple(map(_number, values["owner"])), tuple(map(_number, values["times"]))
            xattrs = {_text(name): base64.b64decode(value, validate=True) for name, value in values["xattrs"].items()}
            size, mode = _number(values["size"]), _number(values["mode"])
            if len(owner) != 2 or len(times) != 2 or mode & ~0o7777 or max(owner) >= 1 << 32:
                raise garbled()
            return Meta(_text(values["path"]), size, mode, (owner[0], owner[1]), (times[0], times[1]), xattrs, values["last"] is True)
        except (KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise garbled() from error


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise garbled()
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise garbled()
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise garbled() from error
    return value


class _Arriving:
    """One file on its way, in a directory that is held."""

    def __init__(self, path: str, temporary: str, accepted: Sequence[str]) -> None:
        """TEMPORARY: the name that it gets for the time being. Raises MoveError for a PATH that is not ACCEPTED, OSError."""
        self.directory, self.name, self.temporary = -1, os.path.basename(path), temporary
        self.fd = -1
        self.meta: Meta | None = None
        self.named = self.exchanged = self.moved = False
        self.directory = _open_directory(path, accepted)
        try:
            self.fd = os.open(f"/proc/self/fd/{self.directory}", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NO_SUCH:
                self.close()
                raise
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(temporary, flags, 0o600, dir_fd=self.directory)
            self.named = True

    @property
    def place(self) -> str:
        """Where it is for the time being: the directory cannot be changed for another one on the way there."""
        return f"/proc/self/fd/{self.directory}/{self.temporary}"

    @property
    def placed(self) -> Placed:
        """What is written down of it."""
        return Placed(os.readlink(f"/proc/self/fd/{self.directory}"), self.temporary, self.name, os.fstat(self.fd).st_ino)

    def begin(self, meta: Meta) -> None:
        """Take what it is to be like."""
        os.ftruncate(self.fd, meta.size)
        self.meta = meta

    def write(self, offset: int, length: int, data: memoryview) -> None:
        """Put DATA, or zeros, at OFFSET. Raises MoveError for what is not within the file."""
        if self.meta is None or offset + length > self.meta.size:
            raise garbled()
        data = data or memoryview(bytes(length))
        while data:
            done = os.pwrite(self.fd, data, offset)
            data, offset = data[done:], offset + done

    def complete(self) -> None:
        """Give it its owner, mode, attributes and times, and a name for the time being. Raises MoveError when it was not begun."""
        if self.meta is None:
            raise garbled()
        os.fchown(self.fd, *self.meta.owner)
        os.fchmod(self.fd, self.meta.mode)
        for name in os.listxattr(self.fd):
            if name not in self.meta.xattrs and name != "security.selinux":
                os.removexattr(self.fd, name)
        for name, value in self.meta.xattrs.items():
            if name not in os.listxattr(self.fd) or os.getxattr(self.fd, name) != value:
                os.setxattr(self.fd, name, value)
        os.utime(self.fd, ns=self.meta.times)
        if not self.named:
            os.link(f"/proc/self/fd/{self.fd}", self.temporary, dst_dir_fd=self.directory, follow_symlinks=True)
            self.named = True

    def put_in_place(self) -> None:
        """Let it change places with the old one, or take its place where there is none."""
        try:
            exchange(self.place, f"/proc/self/fd/{self.directory}/{self.name}")
            self.exchanged = True
        except FileNotFoundError:
            os.rename(self.temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            self.moved = True

    def undo(self) -> None:
        """Let the old one be in its place again, and nothing be left of this one."""
        with suppress(OSError, ImagesError):
            if self.exchanged:
                exchange(self.place, f"/proc/self/fd/{self.directory}/{self.name}")
            elif self.moved:
                os.unlink(self.name, dir_fd=self.directory)
        with suppress(OSError):
            if self.named and not self.moved:
                os.unlink(self.temporary, dir_fd=self.directory)

    def keep(self) -> None:
        """Remove the old one, for good."""
        with suppress(OSError):
            os.fsync(self.fd)
            if self.exchanged:
                os.unlink(self.temporary, dir_fd=self.directory)

    def close(self) -> None:
        """Drop our descriptors."""
        for fd in (self.fd, self.directory):
            if fd >= 0:
                os.close(fd)
        self.fd = self.directory = -1


class ArrivingFiles:
    """The files of one move. A context manager: unless they were kept, everything is as it was before."""

    def __init__(self, accepted: Sequence[str], session: str) -> None:
        """ACCEPTED: files, and directories below which any file may come."""
        self._accepted = tuple(os.path.realpath(path) for path in accepted)
        self._session = session
        self._files: dict[str, _Arriving] = {}
        self._current: _Arriving | None = None
        self._journal = Journal(session)
        self._kept = False

    def __enter__(self) -> ArrivingFiles:
        return self

    def __exit__(self, *exc: object) -> None:
        for file in self._files.values():
            if self._kept:
                file.keep()
            else:
                file.undo()
            file.close()
        self._journal.strike_out()

    def obstacles(self, files: Sequence[Carried]) -> list[Obstacle]:
        """Return why FILES cannot come. Touches nothing."""
        found, wanted = [], dict[int, int]()
        for one in files:
            try:
                directory = _open_directory(one.path, self._accepted)
            except (MoveError, OSError) as error:
                why = f"it cannot come to the destination ({error.strerror if isinstance(error, OSError) else error})"
                found.append(Obstacle(0, one.path, why, "name it in accept_files there, or leave it out"))
                continue
            device = os.fstat(directory).st_dev
            wanted[device] = wanted.get(device, 0) + one.size
            free = os.fstatvfs(directory)
            os.close(directory)
            if wanted[device] + _SPARE > free.f_bavail * free.f_frsize:
                room = f"{free.f_bavail * free.f_frsize >> 20} MiB are free on its disk on the destination"
                found.append(Obstacle(0, one.path, f"{room}, and {wanted[device] >> 20} MiB are to come", "make room there"))
        return found

    def there(self, files: Sequence[Carried], boot: str) -> list[str]:
        """Return those of FILES, of a host with BOOT, that are here already, since both hosts see the same storage."""
        kinds = filesystems()
        return [one.path for one in files if _is_the_same(one, boot, kinds)]

    def begin(self, body: memoryview) -> None:
        """Take what comes from now on for the file that BODY tells. Raises MoveError for one that is not accepted."""
        meta = Meta.read(body)
        with _as_move_error(meta.path):
            if meta.path not in self._files:
                if len(self._files) >= _MOST:
                    raise garbled()
                temporary = f".{os.path.basename(meta.path)[:40]}.stillframe-{len(self._files)}-{self._session[:8]}"
                self._files[meta.path] = _Arriving(meta.path, temporary, self._accepted)
            self._current = self._files[meta.path]
            self._current.begin(meta)

    def write(self, body: memoryview) -> None:
        """Put what BODY has into the file that was begun. Raises MoveError."""
        if self._current is None or self._current.meta is None:
            raise garbled()
        with _as_move_error(self._current.meta.path):
            self._current.write(*unpack_part(body))

    def complete(self) -> dict[str, str]:
        """Give the files all but their places; return where they are for the time being, by path. Raises MoveError."""
        files = {path: file for path, file in self._files.items() if file.meta is not None and file.meta.last}
        if files:
            self._journal.write_down([file.placed for file in files.values()])
        for path, file in files.items():
            with _as_move_error(path):
                file.complete()
        return {path: file.place for path, file in files.items()}

    def put_in_place(self) -> None:
        """Let all change places with the old ones. Raises MoveError."""
        for path, file in self._files.items():
            if file.meta is not None and file.meta.last:
                with _as_move_error(path):
                    file.put_in_place()

    def keep(self) -> None:
        """Let them stay where they are: the tree runs here."""
        self._kept = True


@contextmanager
def _as_move_error(path: str) -> Iterator[None]:
    """Turn an OSError about the file at PATH into a MoveError."""
    try:
        yield
    except (OSError, ImagesError) as error:
        raise MoveError(f"file {path} cannot come to the destination ({error}); see its disk there, and move again") from error


def _open_directory(path: str, accepted: Sequence[str]) -> int:
    """Return a descriptor (O_PATH) of the directory of PATH.

    Raises MoveError for a path that is not ACCEPTED, or where something else is than one file, OSError.
    """
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise MoveError(f"{path[:200]!r} is no absolute path without . and ..")
    parent = os.path.realpath(os.path.dirname(path))
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        real = os.readlink(f"/proc/self/fd/{directory}")
        full = os.path.join(real, os.path.basename(path))
        if real != parent or not any(full == one or full.startswith(os.path.join(one, "")) for one in accepted):
            raise MoveError(f"{full} is not among what may come")
        with suppress(FileNotFoundError):
            status = os.lstat(os.path.basename(path), dir_fd=directory)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise MoveError(f"{full} is no regular file there, or has other names")
    except BaseException:
        os.close(directory)
        raise
    return directory


def _is_the_same(one: Carried, boot: str, kinds: Mapping[int, str]) -> bool:
    """Tell whether ONE, of a host with BOOT, is a file here: by its number, on the same kernel, or on storage that hosts share.

    KINDS: what `filesystems` returns here.
    """
    try:
        status = os.lstat(one.path)
    except OSError:
        return False
    if status.st_ino != one.inode:
        return False
    if boot == procfs.boot_id():
        return status.st_dev == one.device
    return bool(one.filesystem) and kinds.get(status.st_dev) == one.filesystem
