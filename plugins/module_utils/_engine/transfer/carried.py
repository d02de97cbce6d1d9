# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that move along with a tree, as the source sees them: found, and sent until the destination has them as they are.

They are sent while the tree runs, and what has changed since once more while it stands still. A stretch that has the same digest
as when it was sent is not sent again, and a file that nobody has touched since is not even read again.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import MoveError, Obstacle
from ..images.checksum import STRETCH
from ..kernel import procfs
from ..kernel.mountinfo import mounts
from ..resources.files.written import NONE, OPEN, opened_now, writes
from .codec import pack, pack_part
from .wire import FILE, PART, Link

_MOST = 4096
_ZEROS = memoryview(bytes(STRETCH))
_SETTLED = 100_000_000
"""Nanoseconds: a file that was touched a shorter time ago may be written to again without another time of change."""
_ELSEWHERE = ("/proc/", "/sys/", "/dev/")
_SHARED_MEMORY = "/dev/shm/"
_SHARED_STORAGE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre", "gfs2", "ocfs2", "virtiofs")
"""Filesystems that several hosts may have mounted; besides all of FUSE."""


class Carried(NamedTuple):
    """A file that is to be carried, as it is told to the destination beforehand."""

    path: str
    size: int
    inode: int
    device: int
    filesystem: str
    """Its type, where several hosts may have mounted it; else empty."""


@dataclass
class _Sent:
    """What of a file the destination has."""

    key: tuple[int, ...] = ()
    """What tells that nobody has touched it since; empty when that cannot be told."""
    digests: list[bytes] = field(default_factory=list)


class CarriedFiles:
    """The files of one move, WANTED as the options have them: none, open, or paths."""

    def __init__(self, wanted: Sequence[str], tree: int) -> None:
        self._open = OPEN in wanted
        self._paths = tuple(path for path in wanted if path not in (NONE, OPEN))
        self._tree = tree
        self._sent: dict[str, _Sent] = {}
        self._there: frozenset[str] = frozenset()

    def find(self, pids: Sequence[int]) -> dict[str, bool]:
        """Return the paths of the files, and whether PIDS may write to them without a time of change (mmap(2)). Raises OSError."""
        found = dict.fromkeys(self._paths, False)
        for pid in pids if self._open or self._paths else ():
            with suppress(*procfs.GONE):
                if self._open:
                    found.update({path: found.get(path, False) for path in _written(pid)})
                for area in procfs.maps(pid):
                    if area.shared and "w" in area.perms and area.inode and (area.name in found or (self._open and _is_file(area.name))):
                        found[area.name] = True
        return found

    def look(self, pids: Sequence[int]) -> tuple[list[Carried], list[Obstacle]]:
        """Return the files, and why some cannot be carried. Touches nothing."""
        carried, obstacles = [], []
        kinds = filesystems()
        for path in self.find(pids):
            why = _refused(path)
            if why:
                obstacles.append(Obstacle(0, path, why, "leave it out of carry_files, and bring it to the destination yourself"))
                continue
            status = os.stat(path)
            kind = kinds.get(status.st_dev, "")
            shared = kind if kind in _SHARED_STORAGE or kind.startswith("fuse.") else ""
            carried.append(Carried(path, status.st_size, status.st_ino, status.st_dev, shared))
        if carried and os.readlink(f"/proc/{self._tree}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
            why = "files of a tree in a mount namespace of its own cannot be carried"
            obstacles.append(Obstacle(self._tree, "mount namespace", why, "leave carry_files out, and bring them there yourself"))
        if len(carried) > _MOST:
            obstacles.append(Obstacle(0, "files", f"{len(carried)} are to be carried, {_MOST} at most", "name fewer in carry_files"))
        return carried, obstacles

    def leave_out(self, paths: Iterable[str]) -> None:
        """Do not send PATHS: the destination has the very files, on storage that both hosts have."""
        self._there = frozenset(paths)

    def send(self, link: Link, pids: Sequence[int], last: bool = False) -> None:
        """Send what the destination does not have yet. Raises MoveError; in the LAST pass also when a file changes all the same."""
        for path, mapped in self.find(pids).items():
            if path not in self._there:
                try:
                    self._send(link, path, mapped, last)
                except OSError as error:
                    raise MoveError(f"{path} cannot be carried ({error.strerror}); see what has become of it, and move again") from error

    def _send(self, link: Link, path: str, mapped: bool, last: bool) -> None:
        known, began = self._sent.setdefault(path, _Sent()), time.time_ns()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise MoveError(f"{path} is no regular file any more; move again")
            link.send(FILE, pack({**_describe(fd, path, status), "last": last}))
            if known.key == _key(status) and not mapped:
                return
            known.key = ()
            for number, data in enumerate(_stretches(fd, status.st_size)):
                digest = _digest(data)
                new, zeros = number >= len(known.digests), data == _ZEROS[: len(data)]
                if not (new and zeros) and (new or known.digests[number] != digest):
                    link.send(PART, *pack_part(number * STRETCH, len(data), memoryview(b"") if zeros else data))
                known.digests[number : number + 1] = [digest]
            del known.digests[-(-status.st_size // STRETCH) :]
            after = os.fstat(fd)
            if _key(after) == _key(status):
                settled = began - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED
                known.key = _key(status) if settled else ()
            elif last:
                raise MoveError(f"{path} changes while the tree stands still: others write to it; end them, or leave it out of carry_files")
        finally:
            os.close(fd)


def _written(pid: int) -> Iterator[str]:
    """Yield the paths of the files that PID has open for writing."""
    for one in opened_now([pid]):
        with suppress(*procfs.GONE):
            if writes(one.flags) and one.link.startswith("/") and _is_file(one.link) and os.path.samestat(os.stat(one.link), one.stat):
                yield one.link


def _is_file(path: str) -> bool:
    """Tell whether PATH leads to a regular file that can be carried: one on a disk, or of shared memory."""
    if path.startswith(_ELSEWHERE) and not path.startswith(_SHARED_MEMORY):
        return False
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _refused(path: str) -> str:
    """Return why PATH cannot be carried, empty when it can."""
    if not path.startswith("/") or os.path.normpath(path) != path or "\0" in path:
        return "that is no absolute path without . and .."
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        return f"it is not there ({error.strerror})"
    if not stat.S_ISREG(mode) or (path.startswith(_ELSEWHERE) and not path.startswith(_SHARED_MEMORY)):
        return "it is no regular file"
    return ""


def filesystems() -> dict[int, str]:
    """Return the types of the filesystems that are mounted, by their devices."""
    return {mount.device: mount.fstype for mount in mounts()}


def _describe(fd: int, path: str, status: os.stat_result) -> dict[str, Any]:
    names = os.listxattr(fd)
    return {
        "path": path,
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "owner": [status.st_uid, status.st_gid],
        "times": [status.st_atime_ns, status.st_mtime_ns],
        "xattrs": {name: base64.b64encode(os.getxattr(fd, name)).decode() for name in names},
    }


def _key(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _stretches(fd: int, size: int) -> Iterator[memoryview]:
    """Yield the content of FD stretch by stretch; of one that has become shorter, zeros."""
    for start in range(0, size, STRETCH):
        buffer = bytearray(min(STRETCH, size - start))
        at = 0
        while at < len(buffer):
            got = os.preadv(fd, [memoryview(buffer)[at:]], start + at)
            if not got:
                break
            at += got
        yield memoryview(buffer)


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
