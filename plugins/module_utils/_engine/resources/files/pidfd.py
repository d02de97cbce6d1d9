# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of processes and threads of the tree, or of such as have ended (pidfd_open(2)).

images: files.img (pidfd_entry: process or thread, -1 when it has ended; the inode number tells which of those are the same one).
CRIU 4.2 carries none of threads that are no processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ...errors import Obstacle
from ...images.schema import message
from ...kernel.procfs import threads
from ...kernel.syscall import syscall
from ...tracee.passing import passing_process
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext, Stub, Task
from .late import LateFiles

PIDFD_THREAD = os.O_EXCL
"""linux/pidfd.h (Linux 6.9); it stays among the status flags."""
ENDED = -1
_FLAGS = os.O_NONBLOCK | PIDFD_THREAD
_CLOSE = "have the program close it before the dump"


def is_pidfd(file: OpenFile) -> bool:
    """Tell whether FILE stands for a process."""
    return file.link == "anon_inode:[pidfd]"


def _process(file: OpenFile) -> int:
    return int(file.info.values["Pid"])


class PidfdDump(KindDump):
    """Dumps descriptors of processes."""

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse those of what is not in the tree."""
        pid, pids = _process(file), self.context.pids()
        of_thread = file.flags & PIDFD_THREAD and any(pid in threads(process) for process in pids)
        if pid != ENDED and pid not in pids and not of_thread:
            named = f"process {pid}" if pid else "a process of another PID namespace"
            yield file.obstacle(f"a pidfd of {named}, which is not in the tree", _CLOSE)

    def collect(self, description: Description) -> Entry:
        """Return the pidfd_entry."""
        file = description.file
        entry = message("pidfd_entry")(id=description.file_id, flags=file.flags & ~os.O_RDWR, fown=description.fown)
        entry.nspid, entry.ino = _process(file), file.stat.st_ino & 0xFFFFFFFF
        return entry


class PidfdRestore(KindRestore):
    """Makes descriptors of processes and threads: of restored ones by the tasks, of those that have ended by others that end at once."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._late = LateFiles(context)

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse those of what is not in the images."""
        pids = self.context.pids()
        for file_id, entry in entries.items():
            if entry.nspid not in (ENDED, *pids) and not self._is_thread(entry):
                where = f"pidfd {file_id} ({self.context.holder(file_id)})"
                yield Obstacle(0, where, f"process {entry.nspid} is not in the images", "use another copy of the dump")

    def _is_thread(self, entry: Entry) -> bool:
        return bool(entry.flags & PIDFD_THREAD and self.context.images.has(f"core-{entry.nspid}"))

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make those of processes that have ended, and hold the places of the others."""
        found = {file_id: self._late.hold_place() for file_id, entry in entries.items() if entry.nspid != ENDED}
        for inode in {entry.ino for entry in entries.values() if entry.nspid == ENDED}:
            with passing_process() as pid:
                for file_id, entry in entries.items():
                    if entry.nspid == ENDED and entry.ino == inode:
                        found[file_id] = self.context.keep(syscall("pidfd_open", pid, entry.flags & _FLAGS))
        return found

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Have TASK make its descriptors of processes of the tree, which are all there."""
        for descriptor in task.descriptors:
            entry = entries.get(descriptor.file_id)
            if entry is not None and entry.nspid != ENDED:
                self._late.put(task, descriptor, entry, lambda stub, entry=entry: _open(stub, entry))  # type: ignore[misc]


def _open(stub: Stub, entry: Entry) -> int:
    return stub.call("pidfd_open", entry.nspid, entry.flags & _FLAGS)


PIDFDS = Kind("PIDFD", "pidfd", is_pidfd, PidfdDump, PidfdRestore)
