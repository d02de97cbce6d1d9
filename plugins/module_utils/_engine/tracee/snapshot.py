# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A snapshot of a task's memory: a copy-on-write clone that does nothing, to be read while the task runs on.

The task must not notice it: no SIGCHLD, no child to wait for. So an intermediate thread of control, which shares the
task's memory, makes the copy, ends and is reaped in the same stop; the copy is then no child of the task.
"""

from __future__ import annotations

import os
import signal

from ..kernel import ptrace
from ..kernel.clone import CLONE_FILES, CLONE_FS, CLONE_VM
from .tracee import Tracee

# include/uapi/linux/close_range.h
CLOSE_RANGE_UNSHARE = 2
_ALL_DESCRIPTORS = (1 << 32) - 1


class Snapshot:
    """The memory of a task as it was when this context was entered; gone when it is left, or when we die."""

    def __init__(self, leader: Tracee) -> None:
        self._leader = leader
        self._copy = 0

    def __enter__(self) -> Snapshot:
        """Make the copy; the task is stopped. Raises OSError when the kernel allows no further process or memory."""
        with self._leader.intermediate(CLONE_VM | CLONE_FS | CLONE_FILES) as maker:
            copy = maker.copy(CLONE_FILES)
            self._copy = copy.pid
        try:
            copy.call("close_range", 0, _ALL_DESCRIPTORS, CLOSE_RANGE_UNSHARE)
            copy.call("setsid")  # what is left of it until init reaps it is not to hold the number of the task's session
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def pid(self) -> int:
        """The process whose memory it is."""
        return self._copy

    def end(self) -> None:
        """Let the kernel begin to take it apart: of a big one that takes a while, which need not be waited for."""
        if self._copy:
            os.kill(self._copy, signal.SIGKILL)

    def __exit__(self, *exc: object) -> None:
        self.end()
        if self._copy:
            while ptrace.wait(self._copy).stopped:
                ptrace.cont(self._copy)
            self._copy = 0
