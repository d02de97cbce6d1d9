# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A C++ program of 1,000 threads that pass a token round, and compute."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from http_service import PROGRAMS
from service import Service, go_through_chain
from victim import Lab, Victim

THREADS = 1000


class Threads(Service):
    programs = ("g++",)

    def start(self) -> None:
        program = self.folder / "thousand"
        source = str(PROGRAMS / "thousand.cpp")
        subprocess.run(["g++", "-O1", "-pthread", "-o", str(program), source], check=True, stdin=subprocess.DEVNULL)
        self.lab.programs["thousand"] = program
        self.victim: Victim = self.lab.start("thousand", rseq=True)
        self.pid = self.victim.pid

    @contextmanager
    def load(self) -> Iterator[None]:
        assert self.victim.ask() == "ok"
        assert len(os.listdir(f"/proc/{self.pid}/task")) == THREADS
        yield

    def mark(self, number: int) -> None:
        assert self.victim.ask(f"add {10**number}") == "ok"

    def check(self, number: int) -> None:
        assert self.victim.ask("sum") == str(sum(10**one for one in range(1, number + 1)))
        assert self.victim.ask() == "ok"


def test_a_thousand_threads(lab: Lab) -> None:
    go_through_chain(Threads(lab))
