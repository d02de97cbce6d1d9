# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real processes for the tests: each ends with its context, and what it started as well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def descendants(pid: int) -> list[int]:
    """PID and the processes below it."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = [int(word) for word in file.read().split()]
    return [pid, *(below for child in children for below in descendants(child))]


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run COMMAND; it is ready once it has written a line."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout and process.stdin
    process.stdout.readline()
    try:
        yield process
    finally:
        with suppress(FileNotFoundError):
            for pid in descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.stdin.close()
        process.stdout.close()
        process.wait()


def python(script: str) -> tuple[str, ...]:
    """The command that runs SCRIPT, which prints "ready" and then waits for its input to end."""
    return (sys.executable, "-c", f"{script}\nprint('ready', flush=True)\nimport sys\nsys.stdin.read()")
