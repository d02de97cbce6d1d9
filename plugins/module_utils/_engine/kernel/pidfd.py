# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""pidfd_open(2) and pidfd_getfd(2): a copy of any descriptor of another process, to ask it anything."""

from __future__ import annotations

import os

from .syscall import syscall


class ProcessFiles:
    """The descriptors of process PID, to be copied into our process. A context manager.

    Needs Linux 5.6 and PTRACE_MODE_ATTACH_REALCREDS over the process (pidfd_getfd(2)).
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = -1

    def __enter__(self) -> ProcessFiles:
        """Open the pidfd. OSError: ESRCH when there is no such process."""
        self._pidfd = os.pidfd_open(self.pid)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pidfd)

    def copy(self, fd: int) -> int:
        """Return a descriptor of ours (close-on-exec) for the open file that FD of the process is.

        OSError: EBADF when FD is not open, EPERM without the right to trace the process, ESRCH when it has ended.
        """
        return syscall("pidfd_getfd", self._pidfd, fd, 0)
