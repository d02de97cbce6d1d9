# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""bash in a terminal that is full of output, with what was typed ahead and a job that runs: it goes on, and so does job control."""

from __future__ import annotations

import array
import fcntl
import os
import re
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from http_service import PROGRAMS
from service import Service, go_through_chain
from victim import Lab, until

FULL = 3000
"""Bytes of output, more than a terminal shows at once."""


class Bash(Service):
    programs = ("bash", "stty")

    def start(self) -> None:
        self.work = self.folder / "work"
        self.work.mkdir()
        self.seen = self.work / "seen"
        self.seen.touch()
        os.mkfifo(self.work / "typed")
        terminal = [sys.executable, "-I", str(PROGRAMS / "terminal.py"), str(self.work)]
        command = [*terminal, "bash", "--norc", "--noprofile", "--noediting", "-i"]
        self.pid = self.lab.spawn(command, env={"PATH": os.environ["PATH"], "HISTFILE": ""}).pid
        self._type("PS1=; stty -echo noflsh rows 33 cols 99; sleep 100000 & echo ready\n")
        self._await(r"\nready\r\n")

    @contextmanager
    def load(self) -> Iterator[None]:
        self._type("for ((line = 0; ; line++)); do echo line $line; done\n")
        yield

    def mark(self, number: int) -> None:
        """Type ahead: the shell reads it when the loop is over. Meanwhile it has filled its terminal again."""
        self._type(f"mark={number}\n")
        size = self.seen.stat().st_size
        until(lambda: self.seen.stat().st_size > size + FULL, "the shell shows nothing")

    def check(self, number: int) -> None:
        self._type("\x03")
        self._type("echo mark is $mark, size is $(stty size), terminal is $(tty)\n")
        assert self._await(r"mark is (.*)\r\n")[1] == f"{number}, size is 33 99, terminal is {self._terminal()}"
        lines = [int(line) for line in re.findall(r"line (\d+)\r\n", self._shown())]
        assert lines == list(range(len(lines))) and len(lines) > FULL // 12
        self._type("jobs\n")
        self._await(r"\[1\].*Running +sleep 100000")
        self._type("fg\n")
        self._await(r"\nsleep 100000\r\n")
        until(lambda: self._foreground() != self._shell(), "the job does not come to the foreground")
        self._type("\x1a")
        self._await(r"\[1\].*Stopped +sleep 100000")
        self._type("kill -CONT %1; kill %1; wait; echo it is over\n")
        self._await(r"\nit is over\r\n")

    def files(self) -> tuple[Path, ...]:
        return (self.seen,)

    def _type(self, text: str) -> None:
        """Type TEXT, and return when the terminal has it."""
        typed = os.open(self.work / "typed", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(typed, text.encode())
            until(lambda: not _waiting(typed), "nobody takes what is typed")
        finally:
            os.close(typed)

    def _await(self, pattern: str) -> re.Match[str]:
        until(lambda: re.search(pattern, self._shown()) is not None, f"the shell does not show {pattern}")
        found = re.search(pattern, self._shown())
        assert found
        return found

    def _shown(self) -> str:
        return self.seen.read_bytes().decode()

    def _shell(self) -> int:
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])

    def _terminal(self) -> str:
        return os.readlink(f"/proc/{self._shell()}/fd/0")

    def _foreground(self) -> int:
        return int(Path(f"/proc/{self._shell()}/stat").read_text().rpartition(")")[2].split()[5])


def _waiting(fifo: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fifo, termios.FIONREAD, count)
    return count[0]


def test_bash(lab: Lab) -> None:
    go_through_chain(Bash(lab))
