# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files changing places with what a dump keeps of them, one by one, so that all of it can be taken back.

What is there still with the inode that it had gets its old content again: programs remember inodes (SQLite tells by them which
connections share a database), and other names of the file are to show it too. A copy of what it has now is kept. All else is written
anew beside its path and renamed to it, and what was there keeps another name until the restore has succeeded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ...images.kept import KeptFile
from ...kernel.file_copy import copy_file

_NEW, _BEFORE, _HALF = ".stillframe-new", ".stillframe-before", ".stillframe-half"


@dataclass(frozen=True)
class Place:
    """A path that is to get a kept file, or to be empty."""

    path: str
    file: KeptFile | None
    """None: nothing is to be there."""
    source: str = ""
    """Where the kept content is."""
    existed: bool = True

    @property
    def new(self) -> str:
        """Where the file is made."""
        return _beside(self.path, _NEW)

    @property
    def before(self) -> str:
        """Where the old file is as long as it may be needed."""
        return _beside(self.path, _BEFORE)


def write_new(place: Place) -> None:
    """Make the kept file beside its place, unless the one that is there is to be overwritten. Raises OSError."""
    if place.file is None or _stays(place):
        return
    with suppress(FileNotFoundError):
        os.unlink(place.new)  # of a run that was killed
    with open(_create(place.new), "wb", buffering=0) as target:
        _fill(place.source, target.fileno())
        _give_attributes(target.fileno(), place.file)
        os.fsync(target.fileno())


def put(place: Place, keeping: bool = True) -> None:
    """Let the kept file be in its place, KEEPING what was there. Raises OSError."""
    if place.file is None:
        if keeping and _lies(place.path):
            os.rename(place.path, place.before)
        else:
            _remove(place.path)
    elif _stays(place):
        if keeping:
            _copy_old(place)
        _overwrite(place, place.file)
    else:
        if keeping and _lies(place.path):
            os.link(place.path, place.before, follow_symlinks=False)
        os.rename(place.new, place.path)


def take_back(places: Iterable[Place]) -> None:
    """Let all be as it was before, wherever `put` was interrupted. Raises OSError."""
    for place in places:
        if _lies(place.before):
            _restore_before(place)
        elif not place.existed and place.file is not None and not _lies(place.new) and _is(place.path, place.file):
            os.unlink(place.path)
        _remove(place.new)
        _remove(_beside(place.path, _HALF))


def discard(places: Iterable[Place]) -> None:
    """Remove what is no longer needed: the restore has succeeded. What cannot be removed is left."""
    for place in places:
        for path in (place.before, place.new):
            with suppress(OSError):
                os.unlink(path)


def make_directories(made: Sequence[tuple[str, int, int, int]]) -> None:
    """Make the directories MADE: path, mode, owner and group of each, those above others first. Raises OSError."""
    for path, mode, uid, gid in made:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chown(path, uid, gid)
            os.chmod(path, mode)


def remove_directories(paths: Sequence[str]) -> None:
    """Remove those of PATHS that are empty, the last first."""
    for path in reversed(paths):
        with suppress(OSError):
            os.rmdir(path)


def _stays(place: Place) -> bool:
    """Tell whether the inode that is at PLACE is to stay."""
    if place.file is None or not _lies(place.path):
        return False
    found = os.lstat(place.path)
    return found.st_nlink > 1 or (found.st_dev, found.st_ino) == (place.file.device, place.file.inode)


def _restore_before(place: Place) -> None:
    here = os.lstat(place.path) if _lies(place.path) else None
    old = os.lstat(place.before)
    if here is not None and (here.st_dev, here.st_ino) == (old.st_dev, old.st_ino):
        os.unlink(place.before)  # nothing had been renamed yet
    elif _stays(place):
        with open(_reopen(place.path), "wb", buffering=0) as target:
            _fill(place.before, target.fileno())
            _copy_attributes(place.before, target.fileno())
        os.unlink(place.before)
    else:
        os.rename(place.before, place.path)


def _copy_old(place: Place) -> None:
    """Keep a copy of what is at PLACE. It gets its name only when it is whole."""
    half = _beside(place.path, _HALF)
    with suppress(FileNotFoundError):
        os.unlink(half)
    with open(_create(half), "wb", buffering=0) as copy:
        _fill(place.path, copy.fileno())
        _copy_attributes(place.path, copy.fileno())
        os.fsync(copy.fileno())
    os.rename(half, place.before)


def _overwrite(place: Place, file: KeptFile) -> None:
    """Give the inode at PLACE the content of FILE."""
    with open(_reopen(place.path), "wb", buffering=0) as target:
        _fill(place.source, target.fileno())
        _give_attributes(target.fileno(), file)
        os.fsync(target.fileno())


def _fill(source: str, target: int) -> None:
    with open(os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0) as content:
        copy_file(content.fileno(), target)


def _give_attributes(fd: int, file: KeptFile) -> None:
    """Give FD owner, mode, extended attributes and times of FILE, in an order in which none undoes another."""
    os.fchown(fd, file.uid, file.gid)
    for name in os.listxattr(fd):
        if name not in file.xattrs:
            with suppress(OSError):  # what a security module has put there is its own
                os.removexattr(fd, name)
    os.fchmod(fd, stat.S_IMODE(file.mode))
    for name, value in file.xattrs.items():
        os.setxattr(fd, name, bytes.fromhex(value))
    os.utime(fd, ns=(file.atime_ns, file.mtime_ns))


def _copy_attributes(path: str, fd: int) -> None:
    """Give FD what the file at PATH has."""
    found = os.lstat(path)
    xattrs = {name: os.getxattr(path, name).hex() for name in os.listxattr(path)}
    owner, times = (found.st_uid, found.st_gid), (found.st_atime_ns, found.st_mtime_ns)
    _give_attributes(fd, KeptFile("", path, found.st_size, found.st_mode, *owner, *times, 0, 0, "", "", xattrs))


def _is(path: str, file: KeptFile) -> bool:
    """Tell whether PATH is FILE as we have put it there."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)


def _beside(path: str, ending: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}{ending}")


def _lies(path: str) -> bool:
    return os.path.lexists(path)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _create(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _reopen(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
