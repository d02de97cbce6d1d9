# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Putting the kept files of a dump back as they were, before the tree that has them open is restored.

Its descriptors and mappings are then of those files. What was there before comes back if the restore fails, and also if it is killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Container, Iterator
from contextlib import ExitStack

from ...errors import Obstacle, RestoreError
from ...images.chain import Dump
from ...images.kept import Kept, KeptFile, kept_path, stamp_of
from ...images.kept_verification import kept_faults
from ...kernel.fdinfo import descriptors, fdinfo
from ...kernel.filelocks import F_RDLCK, F_SETLEASE, F_UNLCK
from ..mounts.restore import MountsRestore
from . import replaced
from .guardian import Guardian
from .replaced import Place

_REMEDY = "restore without restore_files, or move it away"


class FilesPutBack:
    """The kept files of one restore. A context manager: unless `keep` was called, all is as before when it is left."""

    def __init__(self, dump: Dump, mounts: MountsRestore, wanted: bool, apart: bool = False, numbers: Container[int] = ()) -> None:
        """WANTED: whether they are to be put back at all. APART: nobody else is there, and what we change ends with us.

        NUMBERS: those that the tree is to get, and no process of ours may have.
        """
        self._numbers = numbers
        self._kept = dump.manifest.kept if dump.manifest else Kept()
        self._dump = dump
        self._mounts = mounts
        self._wanted = wanted and bool(self._kept.files)
        self._apart = apart
        self._places: tuple[Place, ...] = ()
        self._directories: list[str] = []
        self._guardian: Guardian | None = None
        self._begun = False
        self._stack = ExitStack()

    def __enter__(self) -> FilesPutBack:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._begun:
                self._mounts.run(self._take_back)
        finally:
            self._stack.close()

    @property
    def paths(self) -> frozenset[str]:
        """The files that are not to be looked for, since they will be there."""
        return frozenset(file.path for file in self._kept.files) if self._wanted else frozenset()

    @property
    def offered(self) -> frozenset[str]:
        """The files that could be put back, if that were asked for."""
        return frozenset() if self._wanted else frozenset(file.path for file in self._kept.files)

    @property
    def count(self) -> int:
        """How many files are put back."""
        return len(self._kept.files) if self._wanted else 0

    def check(self) -> list[Obstacle]:
        """Return what keeps the files from being put back. Raises ChainError when their copies are damaged. Changes nothing."""
        if not self._wanted:
            return []
        for fault in kept_faults(self._dump.path, self._dump.manifest):
            raise fault
        found: list[Obstacle] = self._mounts.run(lambda: list(self._obstacles()))
        return found

    def put(self) -> None:
        """Put all of them back. Raises RestoreError; then all is as before."""
        if self._wanted:
            self._mounts.run(self._put)

    def going(self, root: int) -> None:
        """Note that the tree with process ROOT is let go next, and cannot be held back any more. Raises RestoreError."""
        try:
            if self._guardian is not None:
                self._guardian.going(root)
        except OSError as error:
            raise RestoreError("the process that guards the files was ended from outside; see by what, and restore again") from error

    def keep(self) -> None:
        """Remove the old files: the tree runs."""
        if self._begun:
            self._begun = False
            self._mounts.run(self._discard)

    def warnings(self) -> list[str]:
        """Return what the caller should know of kept files that were not asked to be put back."""
        if self._wanted:
            return []
        changed = [file.path for file in self._kept.files if not self._mounts.run(_unchanged, file)]
        if not changed:
            return []
        return [f"files that the dump keeps are not as they were at the dump, and restore_files was not asked for: {', '.join(changed)}"]

    def _obstacles(self) -> Iterator[Obstacle]:
        for file in self._kept.files:
            yield from self._in_the_way(file.path)
            above = next((path for path in _up(file.path) if os.path.lexists(path)), "/")
            if not os.path.isdir(above):
                yield Obstacle(0, file.path, f"{above} is no directory any more", _REMEDY)
            elif not os.access(above, os.W_OK | os.X_OK):
                yield Obstacle(0, file.path, f"{above} cannot be written to", "mount its filesystem for writing, or restore as root")
        for path in self._kept.absent:
            yield from self._in_the_way(path)

    def _in_the_way(self, path: str) -> Iterator[Obstacle]:
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        if not stat.S_ISREG(found.st_mode):
            yield Obstacle(0, path, "it was a regular file at the dump, and is none now", _REMEDY)
        elif not self._apart and _is_written(path):
            writers = ", ".join(_writers(found)) or "a process"
            yield Obstacle(0, path, f"{writers} has it open for writing", "end that first: what it writes would be lost")

    def _put(self) -> None:
        sources = {file.path: kept_path(self._mounts.images.path, file) for file in self._kept.files}
        try:
            replaced.take_back([Place(path, None) for path in self._kept.absent] + [Place(file.path, file) for file in self._kept.files])
        except OSError as error:  # of a run that was killed, and who guarded it too
            raise RestoreError(f"what an earlier restore has left cannot be taken back ({error}); see the files beside it") from error
        places = [Place(file.path, file, sources[file.path], os.path.lexists(file.path)) for file in self._kept.files if _differs(file)]
        places += [Place(path, None) for path in self._kept.absent]
        self._places = tuple(places)
        missing = [one for one in self._kept.directories if not os.path.lexists(one.path)]
        self._directories = [one.path for one in missing]
        try:
            if not self._apart:
                self._guardian = self._stack.enter_context(Guardian(self._take_back, self._discard, self._numbers))
            self._begun = True
            replaced.make_directories([(one.path, one.mode, one.uid, one.gid) for one in missing])
            for place in self._places:
                replaced.write_new(place)
            for place in self._places:
                replaced.put(place, keeping=not self._apart)
        except (OSError, EOFError) as error:
            raise RestoreError(f"the files of the dump cannot be put back ({error}); see what their filesystem lacks") from error

    def _discard(self) -> None:
        replaced.discard(self._places)

    def _take_back(self) -> None:
        replaced.take_back(self._places)
        replaced.remove_directories(self._directories)


def _differs(file: KeptFile) -> bool:
    """Tell whether FILE may have changed since the dump."""
    try:
        return not file.stamp or stamp_of(os.lstat(file.path)) != file.stamp
    except OSError:
        return True


def _unchanged(file: KeptFile) -> bool:
    """Tell whether FILE is as it was, as far as its size and time tell."""
    try:
        found = os.lstat(file.path)
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns)


def _up(path: str) -> Iterator[str]:
    """Yield the directories above PATH, the lowest first."""
    while path != "/":
        path = os.path.dirname(path)
        yield path


def _is_written(path: str) -> bool:
    """Tell whether anybody has PATH open for writing: then it gets no lease for readers (fcntl(2), F_SETLEASE)."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW), "rb", buffering=0) as file:
        try:
            fcntl.fcntl(file.fileno(), F_SETLEASE, F_RDLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        fcntl.fcntl(file.fileno(), F_SETLEASE, F_UNLCK)
        return False


def _writers(status: os.stat_result) -> Iterator[str]:
    """Yield who has the file of STATUS open for writing."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            for fd in descriptors(pid):
                found = os.stat(f"/proc/{pid}/fd/{fd}")
                if os.path.samestat(found, status) and fdinfo(pid, fd).flags & os.O_ACCMODE != os.O_RDONLY:
                    yield f"process {pid}"
                    break
        except OSError:
            continue
