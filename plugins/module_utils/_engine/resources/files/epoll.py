# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Event polls (epoll(7)) and what they watch.

images: files.img (eventpoll_file_entry with one eventpoll_tfd_entry a target: descriptor number, events, data).
"""

from __future__ import annotations

import os
import platform
import struct
from itertools import chain
from collections.abc import Iterable, Iterator, Mapping

from ...errors import Obstacle
from ...images.schema import message
from ...kernel.fdinfo import EpollTarget
from ...kernel.kcmp import is_epoll_target
from ...kernel.syscall import syscall
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile, Task
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
        """Refuse targets that no descriptor of the task stands for any more: only the kernel still reaches them."""
        for target, offset in _numbered(file.info.targets):
            if self._number(file, target, offset) is None:
                why = f"it watches a file that was fd {target.tfd} and that process {file.pid} has closed while another holds it open"
                yield file.obstacle(why, "have the program remove it from the epoll instance before it closes the file")

    def collect(self, description: Description) -> Entry:
        """Return the eventpoll_file_entry."""
        file = description.file
        entry = message("eventpoll_file_entry")(id=description.file_id, flags=file.flags, fown=description.fown)
        for target, offset in _numbered(file.info.targets):
            number = self._number(file, target, offset)
            entry.tfd.add(
                id=0,
                tfd=target.tfd if number is None else number,
                events=target.events,
                data=target.data,
                dev=target.dev,
                inode=target.inode,
                pos=target.pos,
            )
        return entry

    def _number(self, file: OpenFile, target: EpollTarget, offset: int) -> int | None:
        """Return the number under which the task has TARGET now: mostly its own, another one if it was duplicated and closed."""
        candidates = [other for other in self.context.files_of(target.inode) if other.pid == file.pid]
        likely = (other for other in candidates if other.fd == target.tfd)
        for other in chain(likely, candidates):
            try:
                if is_epoll_target(other.key, file.key, target.tfd, offset):
                    return other.fd
            except FileNotFoundError:  # the epoll instance watches it no more: the task runs
                return target.tfd
        return None


def _numbered(targets: Iterable[EpollTarget]) -> Iterator[tuple[EpollTarget, int]]:
    """Pair each target with how many of the same number come before it."""
    seen: dict[int, int] = {}
    for target in targets:
        yield target, seen.get(target.tfd, 0)
        seen[target.tfd] = seen.get(target.tfd, 0) + 1


class EpollRestore(KindRestore):
    """Makes epoll instances; their targets are added by the first task that holds both, under its own numbers."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse an instance that no task of the images can fill."""
        for file_id, entry in entries.items():
            if self._filler(file_id, entry) is None:
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

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Have TASK add the targets of its epoll instances; each instance is filled by one task."""
        numbers = {descriptor.file_id: descriptor.fd for descriptor in task.descriptors if descriptor.file_id in entries}
        for file_id, number in numbers.items():
            if self._filler(file_id, entries[file_id]) == task.files_id:
                for target in entries[file_id].tfd:
                    task.stub.call("epoll_ctl", number, EPOLL_CTL_ADD, target.tfd, event(target.events, target.data))

    def _filler(self, file_id: int, entry: Entry) -> int | None:
        """Return the table whose numbers the targets have: the first that holds the instance and all of them."""
        wanted = {target.tfd for target in entry.tfd}
        for files_id, table in sorted(self.context.tables().items()):
            if file_id in {fd.id for fd in table} and wanted <= {fd.fd for fd in table}:
                return files_id
        return None


def event(events: int, data: int) -> bytes:
    """Return a struct epoll_event as this machine has it."""
    return _EPOLL_EVENT.get(platform.machine(), _EPOLL_EVENT_ALIGNED).pack(events, data)


EPOLLS = Kind("EVENTPOLL", "epfd", is_epoll, EpollDump, EpollRestore, by_task=True)
