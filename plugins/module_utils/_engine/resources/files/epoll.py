# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Event polls (epoll(7)) and what they watch.

images: files.img (eventpoll_file_entry with one eventpoll_tfd_entry a target: descriptor number, events, data; in a field of our own
the file id, where the number does not tell the file, as no task has both it and the instance).
"""

from __future__ import annotations

import fcntl
import os
import platform
import struct
from itertools import chain
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import Obstacle, RestoreError
from ...images.schema import message
from ...kernel.fdinfo import EpollTarget
from ...kernel.kcmp import is_epoll_target
from ...kernel.syscall import syscall
from .descriptor_limit import allow_descriptors
from .in_flight import InFlight
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile, Task
from .pidfd import is_pidfd
from .procfs import process_of
from .status import set_flags

EPOLL_CTL_ADD = 1
_EPOLL_EVENT = {"x86_64": struct.Struct("=IQ")}
"""struct epoll_event is packed on x86-64 alone (linux/eventpoll.h)."""
_EPOLL_EVENT_ALIGNED = struct.Struct("=IxxxxQ")


def is_epoll(file: OpenFile) -> bool:
    """Tell whether FILE is an epoll instance."""
    return file.link == "anon_inode:[eventpoll]"


class EpollDump(KindDump):
    """Dumps epoll instances."""

    def check(self, file: OpenFile) -> Iterable[Obstacle]:
        """Refuse targets that no descriptor of the tree stands for any more: only the kernel still reaches them."""
        for target, offset in _numbered(file.info.targets):
            if self._number(file, target, offset) is None and not self._found_elsewhere(file, target, offset):
                why = f"it watches a file that was fd {target.tfd} and that is closed while a process outside of the tree holds it open"
                yield file.obstacle(why, "have the program remove it from the epoll instance before it closes the file")

    def collect(self, description: Description) -> Entry:
        """Return the eventpoll_file_entry."""
        file = description.file
        entry = message("eventpoll_file_entry")(id=description.file_id, flags=file.flags, fown=description.fown)
        for target, offset in _numbered(file.info.targets):
            number = self._number(file, target, offset)
            added = entry.tfd.add(
                id=0,
                tfd=target.tfd if number is None else number,
                events=target.events,
                data=target.data,
                dev=target.dev,
                inode=target.inode,
                pos=target.pos,
            )
            if number is None:
                added.stillframe_file = self.context.file_id(self._elsewhere(file, target, offset)[0])
        return entry

    def _number(self, file: OpenFile, target: EpollTarget, offset: int) -> int | None:
        """Return the number under which the task has TARGET now: mostly its own, another one if it was duplicated and closed."""
        if isinstance(file, InFlight):
            return None
        candidates = [other for other in self.context.files_of(target.inode) if other.pid == file.pid]
        likely = (other for other in candidates if other.fd == target.tfd)
        for other in chain(likely, candidates):
            try:
                if is_epoll_target(other.key, file.key, target.tfd, offset):
                    return other.fd
            except FileNotFoundError:  # the epoll instance watches it no more: the task runs
                return target.tfd
        return None

    def _found_elsewhere(self, file: OpenFile, target: EpollTarget, offset: int) -> bool:
        try:
            return bool(self._elsewhere(file, target, offset))
        except FileNotFoundError:  # the epoll instance watches it no more: the task runs
            return True

    def _elsewhere(self, file: OpenFile, target: EpollTarget, offset: int) -> list[OpenFile]:
        """Return the files of the tree that are TARGET and can be opened before the tasks are there."""
        found = [other for other in self.context.files_of(target.inode) if not is_pidfd(other) and not process_of(other.link)]
        return [other for other in found if is_epoll_target(other.key, file.key, target.tfd, offset)]


def _numbered(targets: Iterable[EpollTarget]) -> Iterator[tuple[EpollTarget, int]]:
    """Pair each target with how many of the same number come before it."""
    seen: dict[int, int] = {}
    for target in targets:
        yield target, seen.get(target.tfd, 0)
        seen[target.tfd] = seen.get(target.tfd, 0) + 1


class EpollRestore(KindRestore):
    """Makes epoll instances; their targets are added by the first task that holds both, under its own numbers, or by us."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse an instance that no task of the images can fill."""
        for file_id, entry in entries.items():
            unknown = [target for target, number in self._given(file_id, entry) if self.context.kind_of(number) is None]
            if self._table(file_id, entry) is None or unknown:
                numbers = ", ".join(f"fd {target.tfd}" for target in entry.tfd)
                why = f"no task of the images holds it together with what it watches ({numbers})"
                yield Obstacle(0, f"epoll instance {file_id} ({self.context.holder(file_id)})", why, "use another copy of the dump")

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them, watching nothing yet."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            found[file_id] = self.context.keep(syscall("epoll_create1", os.O_CLOEXEC))
            set_flags(found[file_id], entry.flags)
        return found

    def join(self, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Add the targets that no task can add."""
        for file_id, entry in entries.items():
            targets = [(files[number], target) for target, number in self._given(file_id, entry)]
            if targets:
                _add_elsewhere(files[file_id], targets)

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Have TASK add the targets of its epoll instances; each instance is filled by one task."""
        numbers = {descriptor.file_id: descriptor.fd for descriptor in task.descriptors if descriptor.file_id in entries}
        for file_id, number in numbers.items():
            if self._table(file_id, entries[file_id]) == task.files_id:
                for target in _plain(entries[file_id]):
                    task.stub.call("epoll_ctl", number, EPOLL_CTL_ADD, target.tfd, event(target.events, target.data))

    def _given(self, file_id: int, entry: Entry) -> list[tuple[Entry, int]]:
        """Return the targets that are to be added by us, each with its file id."""
        found = [(target, target.stillframe_file) for target in entry.tfd if target.HasField("stillframe_file")]
        table = self._table(file_id, entry)
        if table is None or self.context.holder(file_id):
            return found
        numbers = {fd.fd: fd.id for fd in self.context.tables()[table]}
        return found + [(target, numbers[target.tfd]) for target in _plain(entry)]

    def _table(self, file_id: int, entry: Entry) -> int | None:
        """Return the table whose numbers the targets have: the first that has all of them and holds the instance, if any table does."""
        wanted, held = {target.tfd for target in _plain(entry)}, bool(self.context.holder(file_id))
        for files_id, table in sorted(self.context.tables().items()):
            if (not held or file_id in {fd.id for fd in table}) and wanted <= {fd.fd for fd in table}:
                return files_id
        return None


def _plain(entry: Entry) -> list[Entry]:
    return [target for target in entry.tfd if not target.HasField("stillframe_file")]


def _add_elsewhere(epoll: int, targets: Sequence[tuple[int, Entry]]) -> None:
    """Add TARGETS, each with our descriptor of its file, to our descriptor EPOLL, in a process of its own: there, any number is free."""
    floor = 1 + max(target.tfd for _local, target in targets)
    allow_descriptors(floor + len(targets) + 1)
    child = os.fork()
    if not child:
        status = 1
        try:
            instance = fcntl.fcntl(epoll, fcntl.F_DUPFD, floor)
            files = [fcntl.fcntl(local, fcntl.F_DUPFD, floor) for local, _target in targets]
            for file, (_local, target) in zip(files, targets):
                os.dup2(file, target.tfd)
                syscall("epoll_ctl", instance, EPOLL_CTL_ADD, target.tfd, event(target.events, target.data))
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise RestoreError("what an epoll instance watches cannot be added to it; use another copy of the dump")


def event(events: int, data: int) -> bytes:
    """Return a struct epoll_event as this machine has it."""
    return _EPOLL_EVENT.get(platform.machine(), _EPOLL_EVENT_ALIGNED).pack(events, data)


EPOLLS = Kind("EVENTPOLL", "epfd", is_epoll, EpollDump, EpollRestore)
