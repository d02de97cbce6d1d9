# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files a dump keeps: those that the tree has open for writing, or writes to by a mapping, and those that were asked for.

A database of SQLite counts with the journals beside it, whether they are there or not: one that came later would be played back.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Tuple

from ...errors import UsageError
from ...kernel import procfs
from ...kernel.fdinfo import descriptors, fdinfo
from ...kernel.mountinfo import mounts

NONE, OPEN = "none", "open"
JOURNALS = ("-journal", "-wal", "-shm")
"""What SQLite puts beside a database (sqlite.org/tempfiles.html)."""
SQLITE = b"SQLite format 3\0"

_OF_THE_KERNEL = frozenset(
    "proc sysfs cgroup cgroup2 securityfs debugfs tracefs bpf pstore configfs efivarfs fusectl hugetlbfs binfmt_misc mqueue devpts".split()
)
"""Filesystems whose files have no content to keep."""
_Seen = Tuple[str, str, os.stat_result, bool]
"""A file that the tree has in shared memory: door, path, status, and whether it may write to it so."""


class Opened(Protocol):
    """A descriptor of the tree."""

    @property
    def pid(self) -> int:
        """Who has it."""

    @property
    def fd(self) -> int:
        """Its number there."""

    @property
    def link(self) -> str:
        """What /proc/PID/fd shows."""

    @property
    def stat(self) -> os.stat_result:
        """What stat(2) tells of the file."""

    @property
    def flags(self) -> int:
        """The status flags of the open file."""


@dataclass(frozen=True)
class Wanted:
    """A file that is to be kept."""

    path: str
    """As the tree sees it."""
    door: str
    """A path by which we can open it."""
    key: tuple[int, int]
    """st_dev and st_ino."""
    appended: bool = False
    """Whether the tree can write only to its end: what is there already stays, unless the file is cut."""
    mapped: bool = False
    """Whether the tree has it in shared memory: then its times do not tell whether it was written."""


@dataclass(frozen=True)
class _Descriptor:
    pid: int
    fd: int
    link: str
    stat: os.stat_result
    flags: int


def patterns(asked: Sequence[str]) -> list[str] | None:
    """Return the paths and patterns of ASKED, an option `files`; None for no files at all. Raises UsageError."""
    chosen = [one for one in asked if one not in (NONE, OPEN)]
    for one in chosen:
        if not one.startswith("/"):
            raise UsageError(f"files takes none, open, or absolute paths and patterns, not {one!r}")
    if NONE in asked and len(asked) > 1:
        raise UsageError("files is none, or names files; it cannot be both")
    return chosen if OPEN in asked or chosen else None


def opened_now(pids: Iterable[int]) -> Iterator[_Descriptor]:
    """Yield the descriptors of the running processes PIDS; what they close meanwhile is passed over."""
    for pid in pids:
        try:
            numbers = descriptors(pid)
        except procfs.GONE:
            continue
        for fd in numbers:
            try:
                path = f"/proc/{pid}/fd/{fd}"
                yield _Descriptor(pid, fd, os.readlink(path), os.stat(path), fdinfo(pid, fd).flags)
            except OSError:
                continue


def wanted(pids: Sequence[int], opened: Iterable[Opened], asked: Sequence[str], passed: dict[str, None]) -> list[Wanted]:
    """Return the files to be kept of processes PIDS with the descriptors OPENED; PASSED gets a sentence for each that cannot be."""
    root = f"/proc/{pids[0]}/root"
    kernels = {mount.device for mount in mounts(f"/proc/{pids[0]}/mountinfo") if mount.fstype in _OF_THE_KERNEL}
    mapped = dict(_mapped(pids))
    found: dict[tuple[int, int], Wanted] = {}
    writing = [one for one in opened if writes(one.flags)]
    candidates = [(f"/proc/{one.pid}/fd/{one.fd}", one.link, one.stat) for one in writing]
    anywhere = {(one.stat.st_dev, one.stat.st_ino) for one in writing if not one.flags & os.O_APPEND}
    candidates += [(door, link, status) for (door, link, status, writes) in mapped.values() if writes]
    for door, link, status in candidates:
        key = (status.st_dev, status.st_ino)
        if key in found or not stat.S_ISREG(status.st_mode) or not status.st_nlink or status.st_dev in kernels or not link.startswith("/"):
            continue
        if not _leads(root + link, key):
            passed[f"{link} is not kept, since its path does not lead to it"] = None
            continue
        found[key] = Wanted(link, door, key, key not in anywhere and key not in mapped, key in mapped)
    for path in _asked_for(root, asked):
        _add(found, root, path, mapped)
    return list(found.values())


def journals(one: Wanted, head: bytes) -> Iterator[str]:
    """Yield the paths of the journals of ONE, a file that begins with HEAD, if it is a database of SQLite."""
    if head == SQLITE:
        for ending in JOURNALS:
            yield one.path + ending


def beside(one: Wanted, path: str) -> Wanted | None:
    """Return PATH, in the directory of ONE, as a file to be kept; None when nothing is there."""
    door = os.path.join(_root_of(one), path.lstrip("/"))
    try:
        status = os.lstat(door)
    except FileNotFoundError:
        return None
    return Wanted(path, door, (status.st_dev, status.st_ino)) if stat.S_ISREG(status.st_mode) else None


def _root_of(one: Wanted) -> str:
    return "/".join(one.door.split("/")[:3]) + "/root"


def _add(found: dict[tuple[int, int], Wanted], root: str, path: str, mapped: dict[tuple[int, int], _Seen]) -> None:
    try:
        status = os.lstat(root + path)
    except FileNotFoundError:
        return  # gone since it was listed
    key = (status.st_dev, status.st_ino)
    if stat.S_ISREG(status.st_mode) and key not in found:
        found[key] = Wanted(path, root + path, key, mapped=key in mapped)


def _asked_for(root: str, asked: Sequence[str]) -> Iterator[str]:
    """Yield the paths that the patterns ASKED lead to below ROOT; of a directory all files in it."""
    for pattern in asked:
        for match in sorted(glob.iglob(root + os.path.normpath(pattern), recursive=True)):
            if os.path.isdir(match) and not os.path.islink(match):
                for folder, _folders, names in os.walk(match):
                    yield from (os.path.join(folder, name)[len(root) :] for name in sorted(names))
            else:
                yield match[len(root) :]


def _mapped(pids: Iterable[int]) -> Iterator[tuple[tuple[int, int], _Seen]]:
    """Yield the files that PIDS have in shared memory by st_dev and st_ino."""
    for pid in pids:
        try:
            areas = [area for area in procfs.maps(pid) if area.shared and area.inode and area.name.startswith("/")]
            for area in sorted(areas, key=lambda one: "w" in one.perms):
                door = f"/proc/{pid}/map_files/{area.start:x}-{area.end:x}"
                status = os.stat(door)
                yield (status.st_dev, status.st_ino), (door, area.name, status, "w" in area.perms)
        except procfs.GONE:
            continue


def writes(flags: int) -> bool:
    """Tell whether a descriptor of an open file with FLAGS can be written to."""
    return flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_PATH


def _leads(path: str, key: tuple[int, int]) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == key
