# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kind of file has to offer: how it is recognised, dumped and restored."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Protocol
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from ...errors import Obstacle
from ...images.image import ImagesDir
from ...kernel.fdinfo import FdInfo
from ...kernel.sock_diag import UnixSocket
from ...options import DumpOptions, RestoreOptions
from ..mounts.view import TreeView
from .copies import Copies

Entry = Any
"""A protobuf message, made by images.schema."""


@dataclass(frozen=True)
class OpenFile:
    """One descriptor of a task."""

    pid: int
    fd: int
    stat: os.stat_result
    link: str
    """What /proc/PID/fd shows: a path, or a name such as "pipe:[123]" or "anon_inode:[eventpoll]"."""
    info: FdInfo
    copies: Copies = field(repr=False, compare=False)

    @property
    def local(self) -> int:
        """Our copy, which shares the open file description with the task: good until the next file is looked at. OSError as `Copies.of`."""
        return self.copies.of(self.pid, self.fd, self.stat)

    @property
    def key(self) -> tuple[int, int]:
        """What tells this descriptor from all others."""
        return self.pid, self.fd

    @property
    def flags(self) -> int:
        """The status flags of the open file (F_GETFL), without O_CLOEXEC."""
        return self.info.status_flags

    @property
    def where(self) -> str:
        """The descriptor as a person would name it."""
        return f"fd {self.fd} ({self.link})"

    def obstacle(self, why: str, remedy: str) -> Obstacle:
        """Return the obstacle that this descriptor is."""
        return Obstacle(self.pid, self.where, why, remedy)


@dataclass(frozen=True)
class Description:
    """One open file description and the descriptors of the tree that share it, the first of them in `file`."""

    file_id: int
    file: OpenFile
    fown: Entry
    """Its fown_entry: who gets its signals."""


class DumpContext(Protocol):
    """What a kind may ask while it dumps."""

    options: DumpOptions
    view: TreeView
    """Looks up paths as the tree does."""
    accepted: frozenset[int] | None
    """Inodes of sockets that take connections, on which nobody waited when the tree had stopped; None before that."""

    def new_id(self) -> int:
        """Return a file id that nothing has yet."""

    def add_path(self, local: int, link: str, flags: int, pos: int, fown: Entry) -> int:
        """Add the file that our descriptor LOCAL has open, and that LINK is the path of, to files.img; return its file id."""

    def add(self, type_name: str, entry: Entry) -> None:
        """Add a file to files.img that no descriptor stands for."""

    def warn(self, message: str) -> None:
        """Keep a warning for the caller."""

    def pids(self) -> Sequence[int]:
        """Return the processes of the tree."""

    def files(self) -> Sequence[OpenFile]:
        """Return every descriptor of the tree."""

    def files_of(self, inode: int) -> Sequence[OpenFile]:
        """Return the descriptors of the tree whose st_ino is INODE."""

    def in_flight(self, inode: int) -> Sequence[OpenFile]:
        """Return the files on their way through the unix socket of INODE (SCM_RIGHTS), in the order of their arrival."""

    def file_id(self, file: OpenFile) -> int:
        """Return the file id of a file of the tree; known once all are."""

    def unix_socket(self, inode: int) -> UnixSocket | None:
        """Return what the kernel lists of a unix socket; None when our network namespace has none of that number."""


class KindDump:
    """The dumping half of a kind; one is made for each dump."""

    late = False
    """Whether it is collected after all else: what comes from outside until then is part of the dump."""

    def __init__(self, context: DumpContext) -> None:
        self.context = context

    def check(self, file: OpenFile) -> Iterable[Obstacle]:
        """Return what keeps FILE from being dumped. Touches nothing."""
        return ()

    def collect(self, description: Description) -> Entry:
        """Return the entry of this kind, read while the tree stands still; quick."""
        raise NotImplementedError

    def write(self, images: ImagesDir) -> None:
        """Write the images of this kind beside files.img; the tree may run by now."""

    def lock_method(self) -> int:
        """Return network_lock_method of the inventory: how connections stay locked after the dump."""
        return 0

    def keep(self, dump_id: str, pids: Sequence[int]) -> None:
        """Prepare for the end of the tree, PIDS, which is killed next: the dump DUMP_ID is complete."""

    def close(self) -> None:
        """Drop what `collect` kept."""


class Undo(Protocol):
    """Takes what is to be done if the restore fails."""

    def __call__(self, action: Callable[[], None]) -> None:
        """Take ACTION; the last one taken is done first."""


class Stub(Protocol):
    """A task that is being restored: stopped, its descriptors in place, still with our credentials."""

    def call(self, name: str, *args: int | bytes) -> int:
        """Make the system call in the task; bytes are copied into it and passed by pointer. Raises OSError."""


@dataclass(frozen=True)
class Descriptor:
    """One descriptor that a task is to have."""

    fd: int
    local: int
    """Our descriptor of the open file that it stands for."""
    cloexec: bool
    file_id: int


@dataclass(frozen=True)
class Task:
    """A restored task whose descriptors are in place."""

    pid: int
    files_id: int
    """The id of its descriptor table."""
    stub: Stub
    descriptors: Sequence[Descriptor]


class RestoreContext(Protocol):
    """What a kind may ask while it restores."""

    images: ImagesDir
    options: RestoreOptions
    put_back: Container[str]
    """Paths of files that are as they were at the dump when `open` is called, whatever `check` finds."""
    offered: Container[str]
    """Those that could be, but that was not asked for."""

    def undo(self, action: Callable[[], None]) -> None:
        """Take what is to be done if the restore fails."""

    def warn(self, message: str) -> None:
        """Keep a warning for the caller."""

    def place(self, entry: Entry) -> tuple[str, int | None]:
        """Return the path of the file of ENTRY, a reg_file_entry, and the dir_fd that it goes with."""

    def keep(self, local: int) -> int:
        """Take over our descriptor LOCAL: return it under a number that no task wants; it is closed when the restore ends."""

    def local(self, file_id: int, flags: int | None = None) -> int:
        """Return our descriptor of file FILE_ID of a kind that was opened before. Raises ImagesError when the images have no such file."""

    def entries_of(self, type_name: str) -> Mapping[int, Entry]:
        """Return the entries of one type of files.img by their file ids."""

    def pids(self) -> Sequence[int]:
        """Return the processes of the images."""

    def tables(self) -> Mapping[int, Sequence[Entry]]:
        """Return the fdinfo entries of every descriptor table by its files_id."""

    def kind_of(self, file_id: int) -> Kind | None:
        """Return the kind of a file of the images; None when they have no such file, or it is of no kind that is restored."""

    def holder(self, file_id: int) -> str:
        """Name the descriptors that stand for a file, for a person."""


class KindRestore:
    """The restoring half of a kind; one is made for each restore."""

    def __init__(self, context: RestoreContext) -> None:
        self.context = context

    def check(self, entries: Mapping[int, Entry]) -> Iterable[Obstacle]:
        """Return what keeps ENTRIES, by file id, from being restored here. Touches nothing."""
        return ()

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Open every file of ENTRIES in our process: our descriptors by file id, each taken over by `context.keep`."""
        raise NotImplementedError

    def join(self, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Do what needs the files of other kinds, all of which are open by now; FILES are our descriptors by file id."""

    def inherited(self) -> Sequence[int]:
        """Return descriptors of ours that tasks need though they are not to have them."""
        return ()

    def lead(self, pid: int, stub: Stub) -> None:
        """Do what the leader of a session can only do before it has children: PID has just made one, and has our descriptors."""

    def attach(self, stubs: Mapping[int, Stub]) -> None:
        """Do what needs all processes, STUBS by PID, in their sessions and groups; they have our descriptors, and no memory yet."""

    def go(self) -> None:
        """Do what has to come last, right before the tasks run; what can fail was done before. May be called again."""

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Do what needs the task, once for each table; FILES are our descriptors by file id."""

    def settle(self) -> None:
        """Put right what the restore itself has changed; all tasks are complete, and none runs yet."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: one line of the registry."""

    type: str
    """Its name in enum fd_types of CRIU's fdinfo.proto."""
    field: str
    """Its field in file_entry of CRIU's fdinfo.proto."""
    matches: Callable[[OpenFile], bool]
    dump: Callable[[DumpContext], KindDump]
    restore: Callable[[RestoreContext], KindRestore]
