# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of processes in /proc: of the tree's own, opened by the tasks once all are there, and of such as have ended.

images: files.img (reg_file_entry), remap-fpath (type PROCFS: the process has ended and is there for a moment at the restore).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from ...errors import Obstacle, RestoreError
from ...tracee.passing import passing_process
from .kind import Descriptor, Entry, RestoreContext, Stub, Task
from .late import LateFiles
from .status import for_open

_OF_PROCESS = re.compile(r"/proc/([0-9]+)(/.*)?")
_OF_THREAD = re.compile(r"/proc/([0-9]+)/task/([0-9]+)(/.*)?")
_AT_FDCWD = -100
_INIT = 1


def process_of(path: str) -> int:
    """Return the process that PATH is about, 0 when it is about none."""
    found = _OF_PROCESS.fullmatch(path)
    return int(found.group(1)) if found else 0


def why_not(path: str, there: bool, pids: Sequence[int]) -> str:
    """Return why a file of a process cannot be carried, empty when it can: it is of one of PIDS, or of init, or no longer THERE."""
    thread = _OF_THREAD.fullmatch(path)
    if thread and thread.group(1) != thread.group(2):
        return f"a file of thread {thread.group(2)} in /proc, which is made after the descriptors"
    if there and process_of(path) not in (_INIT, *pids):
        return f"a file in /proc of process {process_of(path)}, which is not in the tree"
    return ""


class ProcFilesRestore:
    """Opens files of processes."""

    def __init__(self, context: RestoreContext, ended: set[int]) -> None:
        """ENDED: the processes that had ended at the dump."""
        self._context = context
        self._ended = ended
        self._late = LateFiles(context)
        self._passing = ExitStack()

    def is_late(self, entry: Entry) -> bool:
        """Tell whether the file of ENTRY is one of a process of the images."""
        return process_of(entry.name) in self._context.pids() and not self.is_ended(entry)

    def is_ended(self, entry: Entry) -> bool:
        """Tell whether the file of ENTRY is one of a process that had ended at the dump."""
        return process_of(entry.name) in self._ended - set(self._context.pids())

    def check(self, file_id: int, entry: Entry) -> Iterator[Obstacle]:
        """Return what keeps one of either from being opened."""
        pid = process_of(entry.name)
        if not self.is_ended(entry) and not self._context.holder(file_id):
            yield Obstacle(0, entry.name, "a file of a process in /proc is a directory or a mapping of a task", "restore it with CRIU")
        elif self.is_ended(entry) and os.path.exists(f"/proc/{pid}"):
            why = f"process {pid}, which had ended at the dump, is needed for a moment, and its number is in use"
            yield Obstacle(0, entry.name, why, "end that process, or restore in a PID namespace of its own")

    def open(self, entries: Mapping[int, Entry]) -> dict[int, int]:
        """Open those of processes that had ended, and hold the places of the others.

        The processes stay until `settle`: nobody can change to a directory of one that has ended.
        """
        self._context.undo(self._passing.close)
        found = {file_id: self._late.hold_place() for file_id, entry in entries.items() if self.is_late(entry)}
        gone = {file_id: entry for file_id, entry in entries.items() if self.is_ended(entry)}
        for pid in {process_of(entry.name) for entry in gone.values()}:
            try:
                self._passing.enter_context(passing_process(pid))
                for file_id, entry in gone.items():
                    if process_of(entry.name) == pid:
                        found[file_id] = self._context.keep(os.open(entry.name, for_open(entry.flags)))
            except OSError as error:
                raise RestoreError(f"a file of process {pid}, which had ended, cannot be opened again ({error}); restore again") from error
        return found

    def settle(self) -> None:
        """End the processes that were there for a moment."""
        self._passing.close()

    def finish(self, task: Task, entries: Mapping[int, Entry]) -> None:
        """Have TASK open its files of processes of the tree."""
        for descriptor in task.descriptors:
            entry = entries.get(descriptor.file_id)
            if entry is not None and self.is_late(entry):
                self._put(task, descriptor, entry)

    def _put(self, task: Task, descriptor: Descriptor, entry: Entry) -> None:
        def make(stub: Stub) -> int:
            made = stub.call("openat", _AT_FDCWD, entry.name.encode() + b"\0", for_open(entry.flags))
            if entry.pos and not entry.flags & os.O_PATH:
                stub.call("lseek", made, entry.pos, os.SEEK_SET)
            return made

        self._late.put(task, descriptor, entry, make)
