# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Opening every file of the images in our own process, for the tasks to inherit, and what only a task can do to its descriptors."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Container, Mapping, Sequence

from ...errors import ImagesError, KernelError, Obstacle, RestoreError
from ...images.image import ImagesDir
from ...images.schema import enum
from ...options import RestoreOptions
from ..mounts.restore import MountsRestore
from .descriptor_limit import allow_descriptors
from .external import Inherited
from .kind import Descriptor, Entry, Kind, KindRestore, Stub, Task
from .locks import LocksRestore
from .registry import KINDS
from .status import set_owner

__all__ = ["Descriptor", "FilesRestore", "Stub"]

FD_CLOEXEC = 1
_OWNERLESS = ("NS",)
"""What has no fown_entry: it sends no signals."""
_FDINFO = "fdinfo-"
_IDS = "ids-"
_OWNED_TYPES = ("PIPE", "UNIXSK", "INETSK")
"""What has an inode of its own that belongs to the user who made it."""


class FilesRestore:
    """The files of a dump on their way into tasks. A context manager; `close` drops our copies and undoes what was not finished."""

    def __init__(
        self,
        images: ImagesDir,
        options: RestoreOptions,
        mounts: MountsRestore | None = None,
        put_back: Container[str] = (),
        offered: Container[str] = (),
    ) -> None:
        """MOUNTS: the mount namespace of the tree; `check` and `open` are called in it. Without, it is ours.

        PUT_BACK: paths of files that will be as they were at the dump before `open` is called; OFFERED: those that could.
        """
        self.put_back = put_back
        self.offered = offered
        self.images = images
        self.options = options
        self._warnings: dict[str, None] = {}
        self._entries: dict[str, dict[int, Entry]] | None = None
        self._tables: dict[int, list[Entry]] = {}
        self._pids: list[int] | None = None
        self._restores: dict[str, KindRestore] = {}
        self._locks: LocksRestore | None = None
        self._committed = False
        self._locals: dict[int, int] = {}
        self._reopened: dict[tuple[int, int], int] = {}
        self._kept: list[int] = []
        self._mounts = mounts
        self._undo: list[Callable[[], None]] = []
        self._floor = 0
        self._owned: set[int] = set()
        self._given: set[int] = set()
        self._finished: set[int] = set()
        self._inherited = Inherited(options.inherit_fd)

    def __enter__(self) -> FilesRestore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is None:
            self.commit()
        self.close()

    def check(self) -> list[Obstacle]:
        """Return all that can be known before anything is made: changed files, taken addresses, kinds that cannot be restored.

        Raises ImagesError when an image is missing or damaged.
        """
        entries = self._read()
        unknown = [(type_name, file_id) for type_name in entries if type_name not in _BY_TYPE for file_id in entries[type_name]]
        obstacles = [self._unknown(type_name, file_id) for type_name, file_id in unknown]
        obstacles += self._inherited.check(entries)
        for kind in KINDS:
            if kind.type in entries:
                try:
                    obstacles += self._restore(kind).check(entries[kind.type])
                except OSError as error:
                    raise KernelError(f"it cannot be seen whether files of type {kind.type} fit here ({error}); run as root") from error
        return obstacles + list(self._file_locks().check(self._paths()))

    def open(self) -> None:
        """Open every file: offsets, flags, content of pipes and sockets, counters. RestoreError names the one that failed."""
        entries = self._read()
        obstacles = self.check() if not self._restores else []
        if obstacles:
            raise RestoreError("; ".join(map(str, obstacles)), obstacles)
        allow_descriptors(self._floor + 2 * sum(map(len, entries.values())))
        self._locals.update({file_id: self.keep(copy) for file_id, copy in self._inherited.copies().items()})
        for kind in KINDS:
            if kind.type in entries:
                try:
                    self._locals.update(self._restore(kind).open(entries[kind.type]))
                except OSError as error:
                    raise RestoreError(f"a file of type {kind.type} cannot be opened ({error}); see what else uses it") from error
        for kind in KINDS:
            if kind.type in entries:
                try:
                    self._restore(kind).join(entries[kind.type], self._locals)
                except OSError as error:
                    raise RestoreError(f"a file of type {kind.type} cannot be completed ({error}); restore again") from error

    def local(self, file_id: int, flags: int | None = None) -> int:
        """Return our descriptor of file FILE_ID, ours to keep; with FLAGS one of their access mode, as a mapping needs it.

        Raises ImagesError when the images have no such file.
        """
        if file_id not in self._locals:
            raise ImagesError(f"{self.images.file('files')} has no file {file_id} that can be opened; use another copy of the dump")
        entry = self.entries_of("REG").get(file_id) or self.entries_of("MEMFD").get(file_id)
        if flags is None or entry is None or entry.flags & os.O_ACCMODE == flags & os.O_ACCMODE:
            return self._locals[file_id]
        key = (file_id, flags & os.O_ACCMODE)
        if key not in self._reopened:
            path = f"/proc/self/fd/{self._locals[file_id]}"
            try:
                self._reopened[key] = self.keep(os.open(path, key[1] | os.O_CLOEXEC))
            except OSError as error:
                path = os.readlink(path)
                raise RestoreError(f"{path} cannot be opened for its mapping ({error}); check its filesystem") from error
        return self._reopened[key]

    def descriptors(self, files_id: int) -> list[Descriptor]:
        """Return the descriptors of one table. ImagesError when there is no such table."""
        self._read()
        if files_id not in self._tables:
            raise ImagesError(f"{self.images.file(f'{_FDINFO}{files_id}')} is missing; use another copy of the dump")
        return [Descriptor(fd.fd, self.local(fd.id), bool(fd.flags & FD_CLOEXEC), fd.id) for fd in self._tables[files_id]]

    def inherited(self) -> list[int]:
        """Return descriptors of ours that the tasks need besides those that they are to have."""
        return [local for restore in self._restores.values() for local in restore.inherited()]

    def lead(self, pid: int, stub: Stub) -> None:
        """Have process PID, which has just made its session, do what it can do only now. Raises OSError."""
        for restore in self._restores.values():
            restore.lead(pid, stub)

    def attach(self, stubs: Mapping[int, Stub]) -> None:
        """Do what needs processes in their sessions and groups, STUBS by PID. Raises OSError."""
        for restore in self._restores.values():
            restore.attach(stubs)

    def finish(self, pid: int, files_id: int, stub: Stub) -> None:
        """With all descriptors in place in the stopped task PID, which still has uid 0: do what only it can do; once for each table."""
        if files_id in self._finished:
            return
        self._finished.add(files_id)
        entries, task = self._read(), Task(pid, files_id, stub, self.descriptors(files_id))
        try:
            self._give(task)
            self._set_owners(task)
            for kind in KINDS:
                if kind.type in entries:
                    self._restore(kind).finish(task, entries[kind.type], self._locals)
        except OSError as error:
            raise RestoreError(f"the descriptors of process {pid} cannot be completed ({error}); restore again") from error

    def set_locks(self, pid: int, files_id: int, stub: Stub) -> None:
        """Have task PID set its file locks, when it closes no descriptor any more: that would drop them. RestoreError when one is taken."""
        owners = {file_id: entry for entries in self._read().values() for file_id, entry in entries.items() if hasattr(entry, "fown")}
        self._file_locks().set(pid, stub, self.descriptors(files_id), owners)

    def warnings(self) -> list[str]:
        """Return what the caller should know, each once."""
        return list(self._warnings)

    def commit(self) -> None:
        """Note that the restore is complete: what was made on disk stays, and connections go on. Raises RestoreError when they can't."""
        if self._committed:
            return
        try:
            for restore in self._restores.values():
                restore.settle()
        except OSError as error:
            raise RestoreError(f"the restored files cannot be completed ({error}); restore again") from error
        for restore in self._restores.values():
            restore.go()
        self._committed = True
        self._undo.clear()

    def close(self) -> None:
        """Close our descriptors, and undo what was made on disk if the restore was not completed."""
        while self._undo:
            action = self._undo.pop()
            if self._mounts:
                self._mounts.run(action)
            else:
                action()
        while self._kept:
            os.close(self._kept.pop())
        self._locals.clear()

    # what the kinds ask of us: RestoreContext

    def undo(self, action: Callable[[], None]) -> None:
        """Take what is to be done if the restore fails."""
        self._undo.append(action)

    def warn(self, message: str) -> None:
        """Keep a warning for the caller."""
        self._warnings[message] = None

    def place(self, entry: Entry) -> tuple[str, int | None]:
        """Return the path of the file of ENTRY, and the dir_fd that it goes with: it may have been opened in our own mount namespace."""
        if entry.name in self.options.stand_ins:
            return self.options.stand_ins[entry.name], None
        root = self._mounts.root if self._mounts and entry.stillframe_outside else None
        return (entry.name, None) if root is None else (entry.name.lstrip("/") or ".", root)

    def keep(self, local: int) -> int:
        """Move our descriptor LOCAL above all the numbers that tasks want, and close it in the end."""
        moved = fcntl.fcntl(local, fcntl.F_DUPFD_CLOEXEC, self._floor)
        os.close(local)
        self._kept.append(moved)
        return moved

    def entries_of(self, type_name: str) -> Mapping[int, Entry]:
        """Return the entries of one type of files.img by their file ids."""
        return self._read().get(type_name, {})

    def pids(self) -> Sequence[int]:
        """Return the processes of the images."""
        if self._pids is None:
            self._pids = [int(name[len(_IDS) :]) for name in self.images.names() if name.startswith(_IDS)]
        return self._pids

    def tables(self) -> Mapping[int, Sequence[Entry]]:
        """Return the fdinfo entries of every descriptor table by its files_id."""
        self._read()
        return self._tables

    def kind_of(self, file_id: int) -> Kind | None:
        """Return the kind of a file of the images, None when it is not restored."""
        return next((_BY_TYPE.get(name) for name, entries in self._read().items() if file_id in entries), None)

    def holder(self, file_id: int) -> str:
        """Name the descriptors that stand for a file, for a person."""
        numbers = sorted({fd.fd for table in self.tables().values() for fd in table if fd.id == file_id})
        return ", ".join(f"fd {number}" for number in numbers)

    def _read(self) -> dict[str, dict[int, Entry]]:
        if self._entries is None:
            names = {number: name for name, number in enum("fd_types").items()}
            self._entries = {}
            files: Sequence[Entry] = self.images.read("files")
            for file in files:
                name = names[file.type]
                field = _BY_TYPE[name].field if name in _BY_TYPE else ""
                self._entries.setdefault(name, {})[file.id] = getattr(file, field) if field else file
            self._inherited.take(self._entries, self.images)
            for image in self.images.names():
                if image.startswith(_FDINFO):
                    self._tables[int(image[len(_FDINFO) :])] = list(self.images.read(image))
            self._floor = 1 + max((fd.fd for table in self._tables.values() for fd in table), default=2)
        return self._entries

    def _file_locks(self) -> LocksRestore:
        if self._locks is None:
            self._locks = LocksRestore(self.images, self.options.file_locks)
        return self._locks

    def _paths(self) -> dict[tuple[int, int], str]:
        """Return the paths of files by task and descriptor."""
        paths = {file_id: entry.name for file_id, entry in self.entries_of("REG").items()}
        tables: dict[int, int] = {}
        for pid in self.pids():
            ids: Entry = self.images.read(f"{_IDS}{pid}")[0]
            tables[pid] = ids.files_id
        return {(pid, fd.fd): paths[fd.id] for pid, table in tables.items() for fd in self._tables.get(table, ()) if fd.id in paths}

    def _restore(self, kind: Kind) -> KindRestore:
        if kind.type not in self._restores:
            self._restores[kind.type] = kind.restore(self)
        return self._restores[kind.type]

    def _unknown(self, type_name: str, file_id: int) -> Obstacle:
        where, why = f"file {file_id} ({self.holder(file_id)})", f"files of type {type_name} are not restored yet"
        return Obstacle(0, where, why, "restore it with CRIU")

    def _give(self, task: Task) -> None:
        """Make the task's user the owner of its sockets and pipes, as if it had made them: it may open them through /proc."""
        core = f"core-{task.pid}"
        if not self.images.has(core):
            return
        entry: Entry = self.images.read(core)[0]
        creds = entry.thread_core.creds
        for descriptor in task.descriptors:
            anonymous = any(descriptor.file_id in self.entries_of(type_name) for type_name in _OWNED_TYPES)
            if anonymous and descriptor.file_id not in self._given and (creds.uid or creds.gid):
                os.fchown(descriptor.local, creds.uid, creds.gid)
            self._given.add(descriptor.file_id)

    def _set_owners(self, task: Task) -> None:
        for descriptor in task.descriptors:
            for type_name, entries in self._read().items():
                entry = entries.get(descriptor.file_id)
                if entry is not None and type_name in _BY_TYPE and type_name not in _OWNERLESS and descriptor.file_id not in self._owned:
                    self._owned.add(descriptor.file_id)
                    target = self.entries_of("REG")[entry.regf_id] if type_name == "FIFO" and entry.HasField("regf_id") else entry
                    set_owner(task.stub, descriptor.fd, target.flags, target.fown)


_BY_TYPE = {kind.type: kind for kind in KINDS}
