# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that is dumped and restored: tests/programs/heap.c, with memory that is all different and all touched."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "programs" / "heap.c"
DIRTY, PAUSE, SUM = "d", "p", "s"
_PATIENCE = 300.0
"""Seconds to wait for an answer."""


def build(folder: Path) -> Path:
    """Compile the program into FOLDER and return its path."""
    program = folder / "heap"
    subprocess.run(["cc", "-O2", "-o", str(program), str(PROGRAM), "-lpthread"], check=True)
    return program


class Subject:
    """One such process, whoever restored it."""

    def __init__(self, program: Path, folder: Path, mebibytes: int) -> None:
        self._fifo = folder / "commands"
        self._answer = folder / "commands.out"
        self._fifo.unlink(missing_ok=True)
        os.mkfifo(self._fifo)
        self._answer.unlink(missing_ok=True)
        quiet = subprocess.DEVNULL
        command = [str(program), str(mebibytes), str(self._fifo)]
        self.pid = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd=folder).pid
        self._await_answer()

    def ask(self, command: str) -> int:
        """Give the COMMAND and return the number that it answers."""
        self._answer.unlink(missing_ok=True)
        self._fifo.write_text(command)
        return self._await_answer()

    def _await_answer(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        while not self._answer.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} does not answer")
            time.sleep(0.005)
        return int(self._answer.read_text())

    def end(self) -> None:
        """Kill it and wait until it is gone. It is our child, by birth or as its reaper; so are the snapshots made of it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
