# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that can be opened only when the tasks of the tree are there, since they are about these: by the tasks themselves."""

from __future__ import annotations

import os
from collections.abc import Callable

from .kind import Descriptor, Entry, RestoreContext, Stub, Task
from .status import set_owner


class LateFiles:
    """Puts such files in the place that was held for them. The first task that has one makes it, others take theirs from it."""

    def __init__(self, context: RestoreContext) -> None:
        self._context = context
        self._makers: dict[int, tuple[int, int]] = {}

    def hold_place(self) -> int:
        """Return a descriptor of ours for tasks to inherit meanwhile."""
        return self._context.keep(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))

    def put(self, task: Task, descriptor: Descriptor, entry: Entry, make: Callable[[Stub], int]) -> None:
        """Give TASK the file of ENTRY as DESCRIPTOR; MAKE has the task open it. OSError when it cannot."""
        maker = self._makers.setdefault(descriptor.file_id, (task.pid, descriptor.fd))
        made = make(task.stub) if maker == (task.pid, descriptor.fd) else _take(task.stub, *maker)
        task.stub.call("dup3", made, descriptor.fd, os.O_CLOEXEC if descriptor.cloexec else 0)
        task.stub.call("close", made)
        if maker == (task.pid, descriptor.fd):
            set_owner(task.stub, descriptor.fd, entry.flags, entry.fown)


def _take(stub: Stub, pid: int, fd: int) -> int:
    """Have the task copy descriptor FD of task PID."""
    process = stub.call("pidfd_open", pid, 0)
    try:
        return stub.call("pidfd_getfd", process, fd, 0)
    finally:
        stub.call("close", process)
