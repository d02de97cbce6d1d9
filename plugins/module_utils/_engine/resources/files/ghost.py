# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Unlinked files that are still open, called ghosts by CRIU: their content travels in the images.

images: remap-fpath (which file is a ghost), ghost-file-ID (owner, mode, times; then the content in chunks, holes left out).
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Any
from collections.abc import Iterator, Mapping

from ...errors import ImagesError, Obstacle, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import enum, message
from .kind import Entry, Undo
from .status import open_again

BLOCK = 512
"""Bytes of one st_blocks unit (stat(2))."""
CHUNK = 1 << 20
"""Bytes of content in one entry."""
_CARRIED = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFLNK, stat.S_IFCHR)


def obstacle(where: str, pid: int, status: os.stat_result, limit: int) -> Obstacle | None:
    """Return what keeps an unlinked file from being carried, None when nothing does."""
    if stat.S_IFMT(status.st_mode) not in _CARRIED:
        return Obstacle(pid, where, "an unlinked file of a kind that cannot be made again", "have the program close it")
    if stat.S_ISREG(status.st_mode) and status.st_blocks * BLOCK > limit:
        why = f"an unlinked file of {status.st_blocks * BLOCK} bytes, more than ghost_limit ({limit})"
        return Obstacle(pid, where, why, "raise ghost_limit, or have the program close the file")
    return None


@dataclass
class _Ghost:
    """One unlinked inode and the files that refer to it."""

    id: int
    local: int
    status: os.stat_result
    file_ids: list[int]
    target: str
    """Of a symbolic link."""


class GhostsDump:
    """The unlinked files of a dump, each inode once. Its content is copied in `add`, while the tree stands still."""

    def __init__(self) -> None:
        self._ghosts: dict[tuple[int, int], _Ghost] = {}
        self._others: list[Entry] = []

    def remap(self, file_id: int, remap_id: int, kind: str) -> None:
        """Keep a remap of another KIND of enum remap_type."""
        self._others.append(message("remap_file_path_entry")(orig_id=file_id, remap_id=remap_id, remap_type=enum("remap_type")[kind]))

    def add(self, local: int, status: os.stat_result, file_id: int) -> None:
        """Keep the file that our descriptor LOCAL has open, and that file FILE_ID of the images refers to."""
        key = (status.st_dev, status.st_ino)
        ghost = self._ghosts.get(key)
        if ghost is None:
            target = os.readlink("", dir_fd=local) if stat.S_ISLNK(status.st_mode) else ""
            ghost = self._ghosts[key] = _Ghost(len(self._ghosts) + 1, _snapshot(local, status), status, [], target)
        ghost.file_ids.append(file_id)

    def write(self, images: ImagesDir) -> None:
        """Write remap-fpath and the ghost files."""
        remap, kind = message("remap_file_path_entry"), enum("remap_type")["GHOST"]
        ghosts = [(file_id, ghost.id) for ghost in self._ghosts.values() for file_id in ghost.file_ids]
        remaps = [remap(orig_id=file_id, remap_id=ghost_id, remap_type=kind) for file_id, ghost_id in ghosts] + self._others
        if not remaps:
            return
        images.write("remap-fpath", remaps)
        for ghost in self._ghosts.values():
            images.write(f"ghost-file-{ghost.id:x}", _entries(ghost))

    def close(self) -> None:
        """Drop the copies."""
        for ghost in self._ghosts.values():
            if ghost.local >= 0:
                os.close(ghost.local)
        self._ghosts.clear()


def _snapshot(local: int, status: os.stat_result) -> int:
    """Return a memfd with the content of LOCAL as it is now, -1 for what has none."""
    if not stat.S_ISREG(status.st_mode):
        return -1
    source = open_again(local)  # the task may have it open for writing only
    copy = os.memfd_create("ghost")
    try:
        os.ftruncate(copy, status.st_size)
        for offset, length in _data(source, status.st_size):
            _copy(source, copy, offset, length)
    finally:
        os.close(source)
    return copy


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Return the stretches of FD that are no holes (SEEK_DATA, SEEK_HOLE; lseek(2))."""
    offset = 0
    while offset < size:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        offset = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, offset - start


def _copy(source: int, target: int, offset: int, length: int) -> None:
    while length > 0:
        done = os.sendfile(target, source, offset, length) if os.lseek(target, offset, os.SEEK_SET) == offset else 0
        if done == 0:  # it shrank meanwhile: the rest reads as zeros
            return
        offset, length = offset + done, length - done


def _entries(ghost: _Ghost) -> Iterator[Any]:
    status, timeval = ghost.status, message("timeval")
    entry = message("ghost_file_entry")(uid=status.st_uid, gid=status.st_gid, mode=status.st_mode)
    entry.dev, entry.ino = os.major(status.st_dev) << 20 | os.minor(status.st_dev), status.st_ino
    entry.atim.CopyFrom(timeval(tv_sec=int(status.st_atime), tv_usec=status.st_atime_ns // 1000 % 1000000))
    entry.mtim.CopyFrom(timeval(tv_sec=int(status.st_mtime), tv_usec=status.st_mtime_ns // 1000 % 1000000))
    if stat.S_ISREG(status.st_mode):
        entry.chunks, entry.size = True, status.st_size
    elif stat.S_ISCHR(status.st_mode):
        entry.rdev = status.st_rdev
    elif stat.S_ISLNK(status.st_mode):
        entry.symlnk_target = ghost.target
    yield entry
    if ghost.local < 0:
        return
    chunk = message("ghost_chunk_entry")
    for start, length in _data(ghost.local, status.st_size):
        for offset in range(start, start + length, CHUNK):
            data = os.pread(ghost.local, min(CHUNK, start + length - offset), offset)
            yield ImageEntry(chunk(len=len(data), off=offset), data)


class GhostsRestore:
    """The unlinked files of the images, made again under a name, opened through it, and unlinked."""

    def __init__(self, images: ImagesDir, undo: Undo) -> None:
        self._images = images
        self._undo = undo
        self._paths: dict[int, str] = {}
        self._made: list[str] = []

    def check(self, remaps: Mapping[int, int], names: Mapping[int, str]) -> Iterator[Obstacle]:
        """Return what keeps the ghosts from being made; REMAPS: ghost id by file id, NAMES: path by file id."""
        for file_id, ghost_id in remaps.items():
            if not self._images.has(f"ghost-file-{ghost_id:x}"):
                raise ImagesError(f"{self._images.file(f'ghost-file-{ghost_id:x}')} is missing; use another copy of the dump")
            directory = os.path.dirname(names[file_id])
            while not os.path.lexists(directory):  # unlinked too: it is made for a moment
                directory = os.path.dirname(directory)
            if not os.path.isdir(directory):
                yield Obstacle(0, names[file_id], f"{directory}, in which this unlinked file was, is no directory", "make it one")

    def path(self, ghost_id: int, name: str) -> str:
        """Return the path of ghost GHOST_ID, made beside NAME where it was unlinked from, or under NAME itself when that is free."""
        if ghost_id not in self._paths:
            self._make_directories(os.path.dirname(name))
            path = name if not os.path.lexists(name) else f"{name}.cr.{ghost_id:x}.ghost"
            self._make(ghost_id, path)
            self._paths[ghost_id] = path
        return self._paths[ghost_id]

    def unlink(self) -> None:
        """Remove the names again; the files that were opened through them stay."""
        while self._made:
            path = self._made.pop()
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.rmdir(path)
            else:
                os.unlink(path)

    def _make_directories(self, path: str) -> None:
        if not os.path.isdir(path):
            self._make_directories(os.path.dirname(path))
            os.mkdir(path, 0o700)
            self._note(path)

    def _note(self, path: str) -> None:
        self._made.append(path)
        self._undo(self.unlink)

    def _make(self, ghost_id: int, path: str) -> None:
        entries = self._images.entries(f"ghost-file-{ghost_id:x}")
        if not entries:
            raise ImagesError(f"{self._images.file(f'ghost-file-{ghost_id:x}')} is empty; use another copy of the dump")
        head, kind = entries[0].message, stat.S_IFMT(entries[0].message.mode)
        if kind == stat.S_IFDIR:
            os.mkdir(path, 0o700)
        elif kind == stat.S_IFREG:
            _fill(path, head, [ImageEntry(head, entries[0].payload), *entries[1:]])
        elif kind == stat.S_IFIFO:
            os.mkfifo(path, 0o600)
        elif kind == stat.S_IFCHR:
            os.mknod(path, kind | 0o600, head.rdev)
        elif kind == stat.S_IFLNK:
            os.symlink(head.symlnk_target, path)
        else:
            raise RestoreError(f"the unlinked file {path} is of a kind ({kind:#o}) that cannot be made again; dump without it")
        self._note(path)
        os.chown(path, head.uid, head.gid, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(path, stat.S_IMODE(head.mode))
        if head.HasField("atim") and head.HasField("mtim"):
            os.utime(path, ns=(_nanoseconds(head.atim), _nanoseconds(head.mtim)), follow_symlinks=False)


def _nanoseconds(time: Entry) -> int:
    return int(time.tv_sec) * 1000000000 + int(time.tv_usec) * 1000


def _fill(path: str, head: Entry, entries: list[ImageEntry]) -> None:
    """Make regular file PATH with the content of ENTRIES: chunks, or before CRIU 3.17 one stretch after the first entry."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if not head.chunks:
            _write(fd, entries[0].payload, 0)
        for chunk in entries[1:]:
            _write(fd, chunk.payload, chunk.message.off)
        if head.HasField("size"):
            os.ftruncate(fd, head.size)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done
