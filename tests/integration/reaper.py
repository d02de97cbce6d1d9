# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a command, and reap and in the end kill all that it leaves behind: `reaper.py COMMAND ...`.

Processes that a test orphans, and those that it restores, become our children. So their PIDs are free as soon as they have
ended, whatever PID 1 of the machine does, and none outlives the test.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h


def children() -> list[int]:
    """Return our children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def main() -> int:
    """Run the command and return its exit status."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become the reaper")
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while True:
        pid, status = os.wait()
        if pid == command.pid:
            break
    while left := children():
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
