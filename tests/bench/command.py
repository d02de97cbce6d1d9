# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a command and telling what it took."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """What one command took."""

    wall: float
    """Seconds, the start of the program included."""
    processor: float
    """Seconds of processor time, user and system: what the machine's other work disturbs least."""
    peak: float
    """MiB: the largest resident set of the command and of what it waited for (wait4(2), ru_maxrss)."""


def _environment() -> dict[str, str]:
    """Return our environment, but with bytecode kept: nobody compiles the program each time."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(command: list[str], log: Path) -> Cost:
    """Run COMMAND, its output into LOG. Raises RuntimeError when it fails."""
    with open(log, "wb") as output:
        started = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment())
        _pid, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with status {child.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
