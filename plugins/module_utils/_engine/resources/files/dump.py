# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumping every descriptor of a tree, and the files that its mappings, programs and directories refer to.

images: files.img (file_entry), fdinfo-FILES_ID, and what the kinds add.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from ...errors import KernelError, Obstacle, UnsupportedError
from ...images.image import ImagesDir
from ...images.schema import enum, message
from ...kernel.sock_diag import UnixSocket, UnixSockets
from ...options import DumpOptions
from ..memory.shared import SharedObject
from .kind import Description, Entry, Kind, KindDump, OpenFile
from .memfd import MEMFDS, MemfdDump, is_memory
from .registry import KINDS
from .regular import FileFact, RegularDump
from .status import read_owner
from .survey import Survey
from .unsupported import unsupported

FD_CLOEXEC = 1


class FilesDump:
    """The descriptors of a tree on their way into the images. A context manager; `close` drops every copy."""

    def __init__(self, options: DumpOptions, leave_out: frozenset[tuple[int, int]] = frozenset()) -> None:
        """LEAVE_OUT: (pid, fd) of descriptors that are ours and no part of the tree."""
        self._options = options
        self._leave_out = leave_out
        self._warnings: dict[str, None] = {}
        self._collection: _Collection | None = None

    def __enter__(self) -> FilesDump:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def preflight(self, pids: Sequence[int]) -> list[Obstacle]:
        """Return everything that stands in the way of dumping the descriptors of PIDS, without stopping or changing them.

        Raises TargetError when a process is gone, KernelError when it may not be looked at.
        """
        found = self._look(pids)
        if found:  # what a running task opens and closes while we look can seem to be one: look twice
            again = self._look(pids)
            found = [obstacle for obstacle in found if obstacle in again]
        return found

    def collect(self, pids: Sequence[int]) -> None:
        """Take everything that changes; PIDS stand still. UnsupportedError when something came up that cannot be carried."""
        self._opened().collect(pids)

    def add_open(self, local_fd: int, path: str, flags: int = 0) -> int:
        """Return the file id of a file that a mapping or a task refers to; FLAGS as it is to be opened.

        LOCAL_FD: a descriptor of ours for it, ours to close after the call. PATH: its path as /proc shows it.
        The same file with the same access mode has one id. UnsupportedError when it cannot be opened again by its path.
        """
        return self._opened().add_open(local_fd, path, flags)

    def files_id(self, pid: int) -> int:
        """Return the id of the descriptor table of PID, which others may share. KeyError when PID was not collected."""
        return self._opened().table_ids[pid]

    def memory_objects(self) -> list[SharedObject]:
        """Return the memory that is a file and that the tree has open or maps; each is open until `close`."""
        return self._opened().memory().objects()

    def write(self, images: ImagesDir) -> None:
        """Write the images; the tree may run by now. Raises ImagesError."""
        self._opened().write(images)

    def manifest_files(self) -> list[tuple[str, int, int, str, int]]:
        """Return (path, size, mtime in ns, build-id in hexadecimal or "", st_mode) of the regular files; after `write`."""
        facts = {fact.path: fact for fact in self._opened().facts()}
        return [(fact.path, fact.size, fact.mtime_ns, fact.build_id, fact.mode) for fact in facts.values()]

    def warnings(self) -> list[str]:
        """Return what the caller should know, each once."""
        return list(self._warnings)

    def close(self) -> None:
        """Drop our copies of the descriptors."""
        if self._collection:
            self._collection.close()

    def _look(self, pids: Sequence[int]) -> list[Obstacle]:
        collection = _Collection(self._options, self._leave_out, self._warnings)
        try:
            return collection.obstacles(pids)
        finally:
            collection.close()

    def _opened(self) -> _Collection:
        if self._collection is None:
            self._collection = _Collection(self._options, self._leave_out, self._warnings)
        return self._collection


class _Collection:
    """What one dump has gathered: the DumpContext of the kinds."""

    def __init__(self, options: DumpOptions, leave_out: frozenset[tuple[int, int]], warnings: dict[str, None]) -> None:
        self.options = options
        self.table_ids: dict[int, int] = {}
        self._warnings = warnings
        self._survey = Survey(leave_out)
        self._by_inode: dict[int, list[OpenFile]] = {}
        self._kinds: dict[int, Kind | None] = {}
        self._unix_sockets: UnixSockets | None = None
        self._dumps: dict[str, KindDump] = {}
        self._files: list[tuple[str, Entry]] = []
        self._tables: dict[int, list[Entry]] = {}
        self._opened: dict[tuple[int, int, int], int] = {}
        self._last_id = 0

    def obstacles(self, pids: Sequence[int]) -> list[Obstacle]:
        """Look at the descriptors of PIDS and return what cannot be carried."""
        self._survey.take(pids)
        self._index()
        try:
            return list(self._check())
        except OSError as error:
            raise KernelError(f"the descriptors of process {pids[0]} cannot be examined ({error}); run as root, and try again") from error

    def collect(self, pids: Sequence[int]) -> None:
        """Look at the descriptors of PIDS, take their state, and drop the copies."""
        obstacles = self.obstacles(pids)
        if obstacles:
            raise UnsupportedError(obstacles)
        file_of: dict[tuple[int, int], tuple[int, Kind]] = {}
        for shared in self._survey.descriptions():
            kind = self._kinds[shared[0].local]
            if kind is None:
                raise UnsupportedError([unsupported(shared[0])])
            found = (self.new_id(), kind)
            file_of.update({(file.pid, file.fd): found for file in shared})
            self._collect_one(shared[0], *found)
        types = enum("fd_types")
        for table_id, table in enumerate(self._survey.tables, start=1):
            self.table_ids.update({pid: table_id for pid in table.pids})
            self._tables[table_id] = [_fdinfo(file, *file_of[file.pid, file.fd], types) for file in table.files]
        self._survey.close()

    def add_open(self, local: int, path: str, flags: int) -> int:
        """Add a file that no descriptor stands for, each once."""
        status = os.fstat(local)
        key = (status.st_dev, status.st_ino, flags & os.O_ACCMODE)
        if key not in self._opened:
            owner = message("fown_entry")(uid=0, euid=0, signum=0, pid_type=0, pid=0)
            if is_memory(path, status):
                self._opened[key] = self.new_id()
                self.add("MEMFD", self.memory().entry(self._opened[key], local, path, flags, 0, owner))
                return self._opened[key]
            obstacles = list(self._regular().check_path(0, path, path, status))
            if obstacles:
                raise UnsupportedError(obstacles)
            self._opened[key] = self.add_path(local, path, flags, 0, owner)
        return self._opened[key]

    def write(self, images: ImagesDir) -> None:
        """Write every image."""
        self._regular().settle()
        fields, types = {kind.type: kind.field for kind in KINDS}, enum("fd_types")
        entries = []
        for type_name, entry in self._files:
            file = message("file_entry")(type=types[type_name], id=entry.id)
            getattr(file, fields[type_name]).CopyFrom(entry)
            entries.append(file)
        images.write("files", entries)
        for table_id, table in self._tables.items():
            images.write(f"fdinfo-{table_id}", table)
        for dump in self._dumps.values():
            dump.write(images)

    def facts(self) -> list[FileFact]:
        """Return what is known of the files by path."""
        return self._regular().facts

    def close(self) -> None:
        """Drop every copy."""
        self._survey.close()
        for dump in self._dumps.values():
            dump.close()
        if self._unix_sockets:
            self._unix_sockets.__exit__(None, None, None)
            self._unix_sockets = None

    def new_id(self) -> int:
        """Return a file id that nothing has yet."""
        self._last_id += 1
        return self._last_id

    def add_path(self, local: int, link: str, flags: int, pos: int, fown: Entry) -> int:
        """Add a file by its path and return its id."""
        file_id = self.new_id()
        self.add("REG", self._regular().entry(file_id, local, link, flags, pos, fown))
        return file_id

    def add(self, type_name: str, entry: Entry) -> None:
        """Add an entry to files.img."""
        self._files.append((type_name, entry))

    def warn(self, message_text: str) -> None:
        """Keep a warning, once."""
        self._warnings[message_text] = None

    def files(self) -> Sequence[OpenFile]:
        """Return every descriptor of the tree."""
        return [file for table in self._survey.tables for file in table.files]

    def files_of(self, inode: int) -> Sequence[OpenFile]:
        """Return the descriptors of the tree whose st_ino is INODE."""
        return self._by_inode.get(inode, [])

    def unix_socket(self, inode: int) -> UnixSocket | None:
        """Return what the kernel lists of a unix socket."""
        try:
            if self._unix_sockets is None:
                self._unix_sockets = UnixSockets().__enter__()
            return self._unix_sockets.find(inode)
        except OSError as error:
            raise KernelError(f"the kernel does not list unix sockets ({error}); load the module unix_diag") from error

    def _index(self) -> None:
        for file in self.files():
            self._by_inode.setdefault(file.stat.st_ino, []).append(file)

    def _check(self) -> Iterator[Obstacle]:
        for file in self.files():
            kind = self._kinds[file.local] = kind_of(file)
            if kind is None:
                yield unsupported(file)
            else:
                yield from self._dump(kind).check(file)

    def _collect_one(self, file: OpenFile, file_id: int, kind: Kind) -> None:
        try:
            self.add(kind.type, self._dump(kind).collect(Description(file_id, file, read_owner(file))))
        except OSError as error:
            raise KernelError(f"process {file.pid}, {file.where} cannot be read ({error}); dump it again") from error

    def _dump(self, kind: Kind) -> KindDump:
        if kind.type not in self._dumps:
            self._dumps[kind.type] = kind.dump(self)
        return self._dumps[kind.type]

    def memory(self) -> MemfdDump:
        """Return the dumping half of the kind for memory."""
        dump = self._dump(MEMFDS)
        if not isinstance(dump, MemfdDump):
            raise TypeError("the registry has no kind for memory")
        return dump

    def _regular(self) -> RegularDump:
        dump = self._dump(next(kind for kind in KINDS if kind.dump is RegularDump))
        if not isinstance(dump, RegularDump):
            raise TypeError("the registry has no kind for files by path")
        return dump


def kind_of(file: OpenFile) -> Kind | None:
    """Return the kind of FILE, None when it cannot be carried."""
    return next((kind for kind in KINDS if kind.matches(file)), None)


def _fdinfo(file: OpenFile, file_id: int, kind: Kind, types: Mapping[str, int]) -> Entry:
    flags = FD_CLOEXEC if file.info.cloexec else 0
    return message("fdinfo_entry")(id=file_id, flags=flags, type=types[kind.type], fd=file.fd)
