# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping files of the tree in step with its memory: their content as it was at the stop, for each dump.

They are copied before the stop, and in it again only if they changed meanwhile, or if that cannot be told: a file that the tree has
in shared memory (its times say when a page was first written to, if at all), or that had just been changed when it was copied
(before Linux 6.13 the clock of files ticks in milliseconds). Then what differs is copied; of a log only what was written since, and
whether it was left alone otherwise is looked at after the stop. What has not changed since the parent dump is linked to its copy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...errors import Obstacle, TargetError, UnsupportedError
from ...images.chain import Chain
from ...images.checksum import Checksummer, fastest
from ...images.fault import faults
from ...images.kept import DIRECTORY, Kept, KeptDirectory, KeptFile, kept_path, stamp_of
from ...kernel.file_copy import begin_alike, copy_file, extend, renew, share_blocks
from ...kernel.filelocks import LEASE, all_locks
from .written import Opened, SQLITE, Wanted, beside, journals, opened_now, patterns, wanted

_TICK, _COARSE = 50_000_000, 2_000_000_000
"""Nanoseconds in which two changes may have the same time: of the kernel's clock, and on filesystems that count in seconds."""
_ATTEMPTS = 3
"""At a file that others write to while it is copied."""


@dataclass(frozen=True)
class _Copy:
    """The content of a file in the directory of the dump."""

    name: str
    stamp: tuple[int, ...]
    """What the file was when it was copied, as in KeptFile."""
    sure: bool
    """Whether a change since would show in it."""
    checksum: str = ""
    """Known for what is the parent's, and is not to be written to."""
    algorithm: str = ""


class FilesKept:
    """The kept files of one dump. `look_ahead` before the stop, `take` in it, `finish` after it."""

    def __init__(self, asked: Sequence[str] = (), images_dir: str = "", parent: Chain | None = None) -> None:
        """ASKED: the option `files`. Raises UsageError."""
        self._patterns = patterns(asked)
        self._images_dir = images_dir
        self._parent = parent.top if parent is not None else None
        self._count = 0
        self._ahead: dict[tuple[int, int], _Copy] = {}
        self._files: list[tuple[KeptFile, _Copy]] = []
        self._directories: dict[str, KeptDirectory] = {}
        self._absent: list[str] = []
        self._beginnings: list[tuple[Wanted, int, str, int]] = []
        """Logs with our descriptors of them, the names of their copies, and how many bytes were copied before the stop."""
        self.warnings: dict[str, None] = {}
        self.bytes = 0
        """That had to be copied in the stop."""
        self.time = 0
        """Microseconds that were spent in the stop."""

    def __enter__(self) -> FilesKept:
        return self

    def __exit__(self, *_: object) -> None:
        while self._beginnings:
            os.close(self._beginnings.pop()[1])

    @property
    def count(self) -> int:
        """How many files are kept."""
        return len(self._files)

    def look_ahead(self, pids: Sequence[int]) -> None:
        """Copy what can be copied while the tree runs. Raises ImagesError."""
        if self._patterns is None:
            return
        with faults("create", self._images_dir):
            os.mkdir(os.path.join(self._images_dir, DIRECTORY), 0o700)
        todo = wanted(pids, opened_now(pids), self._patterns, {})
        leased = {obstacle.where for obstacle in _leased(todo)}
        for one in todo:
            if one.path in leased:
                continue  # since a moment ago; the stop will tell
            try:
                copy = self._known(one) or self._copied(one)[0]
            except (FileNotFoundError, ProcessLookupError, EOFError):
                continue  # gone or cut since; the stop will tell
            self._ahead[one.key] = copy

    def take(self, pids: Sequence[int], opened: Iterable[Opened]) -> None:
        """Keep what the tree, whose processes PIDS stand still with the descriptors OPENED, has now. Raises EngineError."""
        if self._patterns is None:
            return
        started = time.monotonic()
        todo = wanted(pids, opened, self._patterns, self.warnings)
        leased = list(_leased(todo))
        if leased:
            raise UnsupportedError(leased)
        root = f"/proc/{pids[0]}/root"
        seen = {one.key for one in todo}
        while todo:
            one = todo.pop(0)
            head = self._take_one(one, root)
            for path in journals(one, head):
                found = beside(one, path)
                if found is None:
                    self._absent.append(path)
                elif found.key not in seen:
                    seen.add(found.key)
                    todo.append(found)
        self.time = int((time.monotonic() - started) * 1e6)

    def finish(self) -> Kept:
        """Complete the records, now that the tree may run, and remove what was copied for nothing. Raises ImagesError, TargetError."""
        if self._patterns is None:
            return Kept()
        self._check_beginnings()
        folder = os.path.join(self._images_dir, DIRECTORY)
        with faults("write", folder):
            used = {copy.name for _file, copy in self._files}
            for name in os.listdir(folder):
                if name not in used:
                    os.unlink(os.path.join(folder, name))
            if not self._files:
                os.rmdir(folder)
        return Kept(tuple(self._summed(file, copy) for file, copy in self._files), tuple(self._directories.values()), tuple(self._absent))

    def _take_one(self, one: Wanted, root: str) -> bytes:
        """Keep ONE as it is now; return how it begins."""
        try:
            for attempt in range(_ATTEMPTS):
                copy = self._still(one) or self._copied_now(one)
                with open(_open(one.door), "rb", buffering=0) as file:
                    status, xattrs, head = os.fstat(file.fileno()), _xattrs(file.fileno()), os.pread(file.fileno(), len(SQLITE), 0)
                if copy.stamp == stamp_of(status):
                    break
                if attempt == _ATTEMPTS - 1:
                    self.warnings[f"{one.path} was written to by others while it was kept: it may not be of one moment"] = None
        except (OSError, EOFError) as error:
            raise TargetError(f"{one.path} cannot be kept ({error}); see who changes it, and dump again") from error
        for path in _above(one.path):
            if path not in self._directories:
                there = os.stat(root + path)
                self._directories[path] = KeptDirectory(path, there.st_mode & 0o7777, there.st_uid, there.st_gid)
        record = KeptFile(
            name=copy.name,
            path=one.path,
            size=os.stat(self._path(copy.name)).st_size,
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            atime_ns=status.st_atime_ns,
            mtime_ns=status.st_mtime_ns,
            device=status.st_dev,
            inode=status.st_ino,
            checksum="",
            algorithm="",
            xattrs=xattrs,
            stamp=copy.stamp if copy.sure and not one.mapped else (),
        )
        self._files.append((record, copy))
        return head

    def _copied_now(self, one: Wanted) -> _Copy:
        """Return a copy of ONE, made in the stop from what there is. Raises OSError, EOFError."""
        ahead = self._ahead.pop(one.key, None)
        copy, copied = self._copied(one) if ahead is None or ahead.checksum else self._renewed(one, ahead)
        self.bytes += copied
        return copy

    def _renewed(self, one: Wanted, ahead: _Copy) -> tuple[_Copy, int]:
        with open(_open(one.door), "rb", buffering=0) as source, open(self._path(ahead.name), "r+b", buffering=0) as target:
            before = os.fstat(source.fileno())
            copy = replace(ahead, stamp=stamp_of(before), sure=_is_past(before))
            had = os.fstat(target.fileno()).st_size
            if share_blocks(source.fileno(), target.fileno()):
                return copy, 0
            if not one.appended or before.st_size < had:
                return copy, renew(source.fileno(), target.fileno())
            self._beginnings.append((one, os.dup(source.fileno()), ahead.name, had))
            return copy, extend(source.fileno(), target.fileno(), had)

    def _check_beginnings(self) -> None:
        """Raise TargetError when a log has not only grown. ImagesError."""
        for one, local, name, length in self._beginnings:
            path = self._path(name)
            with faults("read", path), open(path, "rb", buffering=0) as copy:
                if not begin_alike(local, copy.fileno(), length):
                    raise TargetError(f"{one.path} was cut or written anew while it was kept; dump again")

    def _still(self, one: Wanted) -> _Copy | None:
        """Return a copy of ONE that was made before and is still right."""
        if one.mapped:
            return None
        ahead = self._ahead.get(one.key)
        if ahead is not None and ahead.sure and ahead.stamp == stamp_of(os.stat(one.door)):
            return ahead
        return self._known(one)

    def _known(self, one: Wanted) -> _Copy | None:
        """Return the parent's copy of ONE, made ours, if ONE has not changed since."""
        manifest = self._parent.manifest if self._parent else None
        stamp = stamp_of(os.stat(one.door))
        for file in manifest.kept.files if manifest else ():
            if file.stamp == stamp and file.path == one.path:
                name = self._next()
                try:
                    os.link(kept_path(self._parent.path, file) if self._parent else "", self._path(name), follow_symlinks=False)
                except OSError:
                    return None  # on another filesystem, or gone: then it is copied
                return _Copy(name, stamp, True, file.checksum, file.algorithm)
        return None

    def _copied(self, one: Wanted) -> tuple[_Copy, int]:
        """Return a new copy of ONE, and the bytes that were copied. Raises OSError, EOFError."""
        name = self._next()
        with open(_open(one.door), "rb", buffering=0) as source, open(_create(self._path(name)), "wb", buffering=0) as target:
            before = os.fstat(source.fileno())
            sure = _is_past(before)
            copied = copy_file(source.fileno(), target.fileno())
        return _Copy(name, stamp_of(before), sure), copied

    def _summed(self, file: KeptFile, copy: _Copy) -> KeptFile:
        if copy.checksum:
            return replace(file, checksum=copy.checksum, algorithm=copy.algorithm)
        checksummer = Checksummer(fastest())
        path = self._path(copy.name)
        with faults("read", path), open(path, "rb", buffering=0) as content:
            return replace(file, checksum=checksummer.whole(content.fileno(), file.size), algorithm=checksummer.algorithm)

    def _next(self) -> str:
        self._count += 1
        return str(self._count)

    def _path(self, name: str) -> str:
        return os.path.join(self._images_dir, DIRECTORY, name)


def obstacles(pids: Sequence[int], asked: Sequence[str]) -> list[Obstacle]:
    """Return what keeps the files that are ASKED for from being kept, while the tree of PIDS runs. Raises UsageError. Touches nothing."""
    chosen = patterns(asked)
    return [] if chosen is None else list(_leased(wanted(pids, opened_now(pids), chosen, {})))


def _leased(files: Iterable[Wanted]) -> Iterator[Obstacle]:
    """Yield those of FILES that cannot be opened without breaking a lease."""
    leases = {(os.makedev(*lock.device), lock.inode) for lock in all_locks() if lock.kind == LEASE}
    for one in files:
        if one.key in leases:
            why = "it is to be kept, and has a lease, which opening it would break"
            yield Obstacle(0, one.path, why, "have the program give up its lease, or dump without files")


def _is_past(status: os.stat_result) -> bool:
    """Tell whether a change from now on would have another time than the file of STATUS."""
    whole = not status.st_ctime_ns % 1_000_000_000 and not status.st_mtime_ns % 1_000_000_000
    return time.time_ns() - status.st_ctime_ns > (_COARSE if whole else _TICK)


def _open(door: str) -> int:
    """Open DOOR for reading, if possible without a trace in its times. Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(door, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(door, flags)


def _create(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _xattrs(fd: int) -> dict[str, str]:
    """Return the extended attributes of FD, in hexadecimal; none where the filesystem has none."""
    try:
        return {name: os.getxattr(fd, name).hex() for name in os.listxattr(fd)}
    except OSError:
        return {}


def _above(path: str) -> list[str]:
    """Return the directories above PATH, the highest first, but for the root."""
    parts = os.path.dirname(path).strip("/").split("/")
    return ["/" + "/".join(parts[: number + 1]) for number in range(len(parts)) if parts[number]]
