# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumping every descriptor of a tree, and the files that its mappings, programs and directories refer to.

images: files.img (file_entry), fdinfo-FILES_ID, and what the kinds add.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from ...errors import KernelError, Obstacle, TargetError, UnsupportedError
from ...images.image import ImagesDir
from ...images.schema import enum, message
from ...kernel.sock_diag import UnixSocket, UnixSockets
from ...options import DumpOptions
from ..memory.shared import SharedObject
from ..mounts.view import TreeView
from .copies import CHANGED
from .descriptor_limit import allow_descriptors
from .external import External
from .in_flight import InFlight, check_in_flight, is_made_late
from .kind import Description, Entry, Kind, KindDump, OpenFile
from .locks import LocksDump
from .memfd import MEMFDS, MemfdDump, is_memory
from .registry import KINDS
from .regular import REGULAR, FileFact, RegularDump
from .status import read_owner
from .survey import Survey
from .unsupported import unsupported

FD_CLOEXEC = 1
_Places = frozenset[tuple[int, int]]  # pid and fd
_LOOKS, _FEWEST_LOOKS, _PATIENCE = 20, 5, 1.0  # the last in seconds
"""At a running tree: what it closes while we look, and our copy keeps open for that moment, can seem to be an obstacle."""


class FilesDump:
    """The descriptors of a tree on their way into the images. A context manager; `close` drops every copy."""

    def __init__(self, options: DumpOptions, leave_out: _Places = frozenset(), accepted: frozenset[int] | None = None) -> None:
        """LEAVE_OUT: descriptors that are ours and no part of the tree. ACCEPTED: as the DumpContext has it."""
        self._options = options
        self._accepted = accepted
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
        enough = time.monotonic() + _PATIENCE
        for look in range(1, _LOOKS):
            if not found or (look >= _FEWEST_LOOKS and time.monotonic() > enough):
                break
            again = self._look(pids)
            found = [obstacle for obstacle in found if obstacle in again]
        return found

    def collect(self, pids: Sequence[int]) -> None:
        """Take everything that changes but what is late; PIDS stand still.

        UnsupportedError when something came up that cannot be carried.
        """
        self._opened().collect(pids)

    def collect_late(self) -> None:
        """Take the rest: what others outside may change until now, such as connections."""
        self._opened().collect_late()

    def add_open(self, local_fd: int, path: str, flags: int = 0) -> int:
        """Return the file id of a file that a mapping or a task refers to; FLAGS as it is to be opened.

        LOCAL_FD: a descriptor of ours for it, ours to close after the call. PATH: its path as /proc shows it.
        The same file with the same access mode has one id. UnsupportedError when it cannot be opened again by its path.
        """
        return self._opened().add_open(local_fd, path, flags)

    def mapped_socket(self, pid: int, inode: int) -> int:
        """Return the file id of the socket INODE, whose memory PID maps. KernelError when it was not collected."""
        self._warnings[f"process {pid}: the rings of a packet socket that it has mapped begin anew, without what is in them"] = None
        return self._opened().socket_id(inode)

    def files_id(self, pid: int) -> int:
        """Return the id of the descriptor table of PID, which others may share. KeyError when PID was not collected."""
        return self._opened().table_ids[pid]

    def open_files(self) -> Sequence[OpenFile]:
        """Return every descriptor that was collected, and what is on its way through sockets."""
        return self._opened().files()

    def memory_objects(self) -> list[SharedObject]:
        """Return the memory that is a file and that the tree has open or maps; each is open until `close`."""
        return self._opened().memory().objects()

    def write(self, images: ImagesDir) -> None:
        """Write the images; the tree may run by now. Raises ImagesError."""
        self._opened().write(images)

    def commit(self) -> None:
        """Note that the dump is complete: what was made on disk for it stays."""
        self._opened().commit()

    def manifest_files(self) -> list[tuple[str, int, int, str, int]]:
        """Return (path, size, mtime in ns, build-id in hexadecimal or "", st_mode) of the regular files; after `write`."""
        facts = {fact.path: fact for fact in self._opened().facts()}
        return [(fact.path, fact.size, fact.mtime_ns, fact.build_id, fact.mode) for fact in facts.values()]

    def warnings(self) -> list[str]:
        """Return what the caller should know, each once."""
        return list(self._warnings)

    def lock_method(self) -> int:
        """Return how connections stay locked after the dump: network_lock_method of the inventory."""
        return self._opened().lock_method()

    def keep(self, dump_id: str, pids: Sequence[int]) -> None:
        """Let what is to outlive the tree, PIDS, do so: it is killed next, and dump DUMP_ID has all of it. Raises KernelError."""
        self._opened().keep(dump_id, pids)

    def close(self) -> None:
        """Drop our copies of the descriptors."""
        if self._collection:
            self._collection.close()

    def _look(self, pids: Sequence[int]) -> list[Obstacle]:
        with closing(self._new()) as collection:
            return collection.obstacles(pids)

    def _opened(self) -> _Collection:
        if self._collection is None:
            self._collection = self._new()
        return self._collection

    def _new(self) -> _Collection:
        return _Collection(self._options, self._leave_out, self._warnings, self._accepted)


class _Collection:
    """What one dump has gathered: the DumpContext of the kinds."""

    def __init__(self, options: DumpOptions, leave_out: _Places, warnings: dict[str, None], accepted: frozenset[int] | None) -> None:
        self.options = options
        self.accepted = accepted
        self.table_ids: dict[int, int] = {}
        self.view = TreeView()
        self._warnings = warnings
        self._survey = Survey(leave_out)
        self._by_inode: dict[int, list[OpenFile]] = {}
        self._kinds: dict[tuple[int, int], Kind | None] = {}
        self._file_ids: dict[tuple[int, int], int] = {}
        self._unix_sockets: UnixSockets | None = None
        self._dumps: dict[str, KindDump] = {}
        self._locks = LocksDump(options.file_locks)
        self._external = External(options.external)
        self._files: list[tuple[str, Entry]] = []
        self._tables: dict[int, list[Entry]] = {}
        self._opened: dict[tuple[int, int, int], int] = {}
        self._late: list[OpenFile] = []
        self._last_id = 0

    def obstacles(self, pids: Sequence[int], stopped: bool = False) -> list[Obstacle]:
        """Look at the descriptors of PIDS, which stand still if STOPPED, and return what cannot be carried."""
        self._survey.take(pids, stopped)
        try:
            self.view.open(pids[0])
        except OSError as error:
            raise TargetError(f"process {pids[0]} has ended, or may not be looked at ({error}); name one that runs, as root") from error
        try:
            self._survey.take_in_flight()
            self._index()
            return [obstacle for file in self.files() for obstacle in self._check(file, stopped)] + list(self._check_locks())
        except OSError as error:
            raise KernelError(f"the descriptors of process {pids[0]} cannot be examined ({error}); run as root, and try again") from error

    def collect(self, pids: Sequence[int]) -> None:
        """Look at the descriptors of PIDS, and take their state."""
        obstacles = self.obstacles(pids, stopped=True)
        if obstacles:
            raise UnsupportedError(obstacles)
        descriptions = self._survey.descriptions()
        allow_descriptors(len(descriptions) + len(os.listdir("/proc/self/fd")))
        self._locks.collect(self._survey.tables, descriptions)
        for shared in descriptions:
            found = self.new_id()
            self._file_ids.update({file.key: found for file in shared})
        for shared in descriptions:
            kind = self._kinds[shared[0].key]
            if kind is not None and self._dump(kind).late:
                self._late.append(shared[0])
                continue
            self._collect_one(shared[0])
            self._survey.copies.drop()
        types = enum("fd_types")
        for table_id, table in enumerate(self._survey.tables, start=1):
            self.table_ids.update({pid: table_id for pid in table.pids})
            self._tables[table_id] = [self._fdinfo(file, types) for file in table.files]

    def collect_late(self) -> None:
        """Take what is late."""
        for file in self._late:
            self._collect_one(file)
            self._survey.copies.drop()
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
            obstacles = list(self._regular().check_path(0, path, path, status, local))
            if obstacles:
                raise UnsupportedError(obstacles)
            self._opened[key] = self.add_path(local, path, flags, 0, owner)
        return self._opened[key]

    def socket_id(self, inode: int) -> int:
        """Return the file id of the socket INODE. KernelError when no descriptor stands for it."""
        for file in self._by_inode.get(inode, ()):
            if file.link == f"socket:[{inode}]":
                return self.file_id(file)
        raise KernelError(f"socket {inode}, which is mapped, was closed meanwhile; dump it again")

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
        self._locks.write(images)
        for dump in self._dumps.values():
            dump.write(images)

    def lock_method(self) -> int:
        """Return how connections stay locked."""
        return max((dump.lock_method() for dump in self._dumps.values()), default=0)

    def keep(self, dump_id: str, pids: Sequence[int]) -> None:
        """Tell every kind that the tree ends."""
        for dump in self._dumps.values():
            dump.keep(dump_id, pids)

    def commit(self) -> None:
        """Note that the dump is complete."""
        self._regular().commit()

    def facts(self) -> list[FileFact]:
        """Return what is known of the files by path."""
        return self._regular().facts

    def close(self) -> None:
        """Drop every copy."""
        self._survey.close()
        self.view.close()
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

    def pids(self) -> Sequence[int]:
        """Return the processes of the tree."""
        return [pid for table in self._survey.tables for pid in table.pids]

    def files(self) -> Sequence[OpenFile]:
        """Return every descriptor of the tree, and what is on its way through its sockets."""
        return self._survey.files()

    def files_of(self, inode: int) -> Sequence[OpenFile]:
        """Return the descriptors of the tree whose st_ino is INODE."""
        return self._by_inode.get(inode, [])

    def in_flight(self, inode: int) -> Sequence[OpenFile]:
        """Return the files on their way through the unix socket of INODE, in the order of their arrival."""
        return self._survey.in_flight.get(inode, ())

    def file_id(self, file: OpenFile) -> int:
        """Return the file id of FILE."""
        return self._file_ids[file.key]

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

    def _check(self, file: OpenFile, stopped: bool) -> list[Obstacle]:
        """Return what keeps FILE from being carried, nothing when a running task has closed it meanwhile."""
        try:
            return list(self._check_kind(file))
        except OSError as error:
            if stopped or error.errno not in CHANGED:
                raise
            return []
        finally:
            self._survey.copies.drop()

    def _check_kind(self, file: OpenFile) -> Iterator[Obstacle]:
        external = self._external.has_file(file)
        kind = self._kinds[file.key] = REGULAR if external else kind_of(file)
        if external:
            return
        if kind is None:
            yield unsupported(file)
        elif isinstance(file, InFlight):
            yield from check_in_flight(file, kind, self.files_of(file.stat.st_ino))
            yield from () if is_made_late(kind, file.link) else self._dump(kind).check(file)
        else:
            yield from self._dump(kind).check(file)

    def _check_locks(self) -> Iterator[Obstacle]:
        for table in self._survey.tables:
            for file in table.files:
                yield from self._locks.check(file, table.pids)

    def _collect_one(self, file: OpenFile) -> None:
        kind = self._kinds[file.key]
        if kind is None:
            raise UnsupportedError([unsupported(file)])
        if self._external.has_file(file):
            self.add(kind.type, self._external.entry(self.file_id(file), file, read_owner(file)))
            return
        try:
            self.add(kind.type, self._dump(kind).collect(Description(self.file_id(file), file, read_owner(file))))
        except OSError as error:
            raise KernelError(f"process {file.pid}, {file.where} cannot be read ({error}); dump it again") from error

    def _fdinfo(self, file: OpenFile, types: Mapping[str, int]) -> Entry:
        kind, flags = self._kinds[file.key], FD_CLOEXEC if file.info.cloexec else 0
        return message("fdinfo_entry")(id=self.file_id(file), flags=flags, type=types[kind.type if kind else ""], fd=file.fd)

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
