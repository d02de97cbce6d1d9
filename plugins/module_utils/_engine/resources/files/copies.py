# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Our copies of the descriptors of a tree, each there only while something is asked of it.

While we hold one, a running program's close(2) of its own does not end the open file: a port stays taken, a reader of a pipe waits on.
"""

from __future__ import annotations

import errno
import os

from ...kernel.pidfd import ProcessFiles

CHANGED = (errno.EBADF, errno.ENOENT, errno.ESRCH, errno.ESTALE)
"""What is told of a descriptor that a running task has closed, or opened anew, since it was looked at."""


class Copies:
    """Copies by process and descriptor."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], int] = {}
        self._process: ProcessFiles | None = None
        """The process of the last one."""

    def of(self, pid: int, fd: int, status: os.stat_result) -> int:
        """Return our copy of descriptor FD of PID, taken now unless we have it; it stays until `drop`.

        OSError: one of CHANGED when it is no longer the file of STATUS, EPERM without the right to trace the process, EMFILE.
        """
        if (pid, fd) not in self._held:
            local = self._held[pid, fd] = self._files_of(pid).copy(fd)
            found = os.fstat(local)
            if found.st_ino != status.st_ino or found.st_dev != status.st_dev:
                raise OSError(errno.ESTALE, f"fd {fd} of process {pid} is another file now")
        return self._held[pid, fd]

    def drop(self) -> None:
        """Close all of them."""
        while self._held:
            os.close(self._held.popitem()[1])

    def close(self) -> None:
        """Close all of them, and what they were taken by."""
        self.drop()
        self._leave()

    def _files_of(self, pid: int) -> ProcessFiles:
        if self._process is None or self._process.pid != pid:
            self._leave()
            self._process = ProcessFiles(pid).__enter__()
        return self._process

    def _leave(self) -> None:
        if self._process is not None:
            self._process.__exit__()
            self._process = None
