# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""tests/programs/pages.c as a process: goes round by round, and tells whether its memory is what it has to be."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "pages"
"""Built on the host and laid into the machine."""
PAGES = 2048
PER_ROUND = PAGES // 16
"""Pages of its plain area that each round writes."""
_PATIENCE = 30


class Victim:
    """The process, the one first started or one restored from its images."""

    def __init__(self, pid: int, answers: Path) -> None:
        self.pid = pid
        self._answers = answers

    def advance(self) -> str:
        """Let it go one round on, and return its answer."""
        os.kill(self.pid, signal.SIGUSR1)
        return self.answer()

    def answer(self) -> str:
        """Let it look at all its memory: "whole ROUND", or "damaged ROUND ADDRESS"."""
        known = self._lines()
        os.kill(self.pid, signal.SIGUSR2)
        deadline = time.monotonic() + _PATIENCE
        while len(self._lines()) == len(known):
            assert time.monotonic() < deadline, f"process {self.pid} does not answer"
            time.sleep(0.01)
        return self._lines()[-1]

    def _lines(self) -> list[str]:
        text = self._answers.read_text() if self._answers.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def end(self) -> None:
        """Kill it, and wait until it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait until it is gone: as its parent, or until its parent has noticed."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        deadline = time.monotonic() + _PATIENCE
        while os.path.exists(f"/proc/{self.pid}"):
            assert time.monotonic() < deadline, f"process {self.pid} does not end"
            time.sleep(0.01)


@contextmanager
def victim(directory: Path, huge: bool = True) -> Iterator[Victim]:
    """Start one, with its answers in DIRECTORY, and with HUGE pages too; it, or what was restored in its place, ends with the context."""
    answers = directory / "answers"
    command = [str(PROGRAM), str(answers), str(PAGES), *(["huge"] if huge else [])]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, cwd="/"
    )
    assert process.stdout
    assert process.stdout.readline().startswith(b"ready")
    process.stdout.close()
    found = Victim(process.pid, answers)
    try:
        yield found
    finally:
        found.end()
        process.returncode = 0  # reaped above
