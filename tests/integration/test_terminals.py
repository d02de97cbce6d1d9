# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Terminals: both ends, what is on its way between them, whom they control; and the one that is outside of the tree."""

from __future__ import annotations

import os
import re
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from look import assert_same, look
from victim import PROGRAMS, Lab, Victim, engine, read_line, sentence, until

KINDS = ("settings,lines,raw,stopped,ends", "session")
PROGRAM = [sys.executable, "-I", str(PROGRAMS / "terminals.py")]


def start(lab: Lab, kind: str, *before: str, **options: object) -> tuple[Victim, int]:
    """Start a program that holds terminals of KIND; return it and its parent. BEFORE: the words of a command that starts it."""
    directory = lab.folder / kind
    directory.mkdir()
    for pipe in ("ask", "answer"):
        os.mkfifo(directory / pipe)
    answers = os.open(directory / "answer", os.O_RDWR | os.O_CLOEXEC)
    with open(directory / "errors", "wb") as errors:
        process = lab.spawn([*before, *PROGRAM, str(directory), kind], stderr=errors, **options)
    try:
        assert read_line(answers, process.pid) == "ready", (directory / "errors").read_text()
    finally:
        os.close(answers)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() if before else [process.pid]
    return Victim(directory, int(children[0])), process.pid


@pytest.mark.parametrize("kind", KINDS)
def test_terminals_are_as_they_were(lab: Lab, kind: str) -> None:
    victim, _parent = start(lab, kind)
    victim.await_rest()
    before = look(victim.pid, memory=False)
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    victim.await_rest()
    assert_same(before, look(victim.pid, memory=False))
    assert victim.ask("look") == "ok"  # nor has the dump changed anything
    last = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    lab.restore(last)
    victim.await_rest()
    assert_same(before, look(victim.pid, memory=False))
    assert victim.ask("look") == "ok"
    assert victim.ask("read") == "ok"


def test_consoles_and_virtual_terminals(lab: Lab) -> None:
    if not all(map(os.path.exists, ("/dev/console", "/dev/tty0", "/dev/tty9", "/dev/tty10"))):
        pytest.skip("the machine has no virtual terminals")
    victim, _parent = start(lab, "devices")
    path = lab.dump(victim.pid, "1")
    lab.reap()
    lab.restore(path)
    assert victim.ask("look") == "ok"


@contextmanager
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    """Master and slave of a terminal that is not in the tree."""
    ends = os.openpty()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def test_a_job_moves_to_another_terminal(lab: Lab) -> None:
    with pseudo_terminal() as (master, slave), pseudo_terminal() as (new_master, new_slave):
        victim, shell = start(lab, "job", *PROGRAM, "lead", stdin=slave, stdout=slave, start_new_session=False)
        said = sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("refused")))
        assert "fd 0 (/dev/pts/" in said and "its master is held by a process outside of the tree" in said and "shell_job" in said
        running = lab.dump(victim.pid, "1", "--leave-running", "--shell-job")
        os.write(master, b"typed\n" + b"typed\n")
        assert victim.ask("read") == "ok"
        os.kill(shell, 9)
        lab.reap()
        said = sentence(lab.engine("restore", "--images-dir", running, "--restore-detached"))
        assert "shell_job" in said
        said = sentence(lab.engine("restore", "--images-dir", running, "--restore-detached", "--shell-job"))
        assert "standard input" in said
        command = engine("restore", "--images-dir", running, "--shell-job")
        lab.spawn([*PROGRAM, "lead", *command], stdin=new_slave, stdout=new_slave, stderr=new_slave, start_new_session=False)
        until(lambda: os.path.exists(f"/proc/{victim.pid}/stat") and _foreground(victim.pid) == victim.pid, "the job is not there")
        os.write(new_master, b"typed\n" + b"typed\n")
        assert victim.ask("read") == "ok"
        assert not termios.tcgetattr(new_slave)[3] & termios.ECHO
        assert {os.readlink(f"/proc/{victim.pid}/fd/{fd}") for fd in (0, 1)} == {os.ttyname(new_slave)}


def _foreground(pid: int) -> int:
    """The group in the foreground of the terminal of PID."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[5])


def test_a_number_that_is_in_use(lab: Lab) -> None:
    victim, _parent = start(lab, "lines")
    path = lab.dump(victim.pid, "1")
    lab.reap()
    with pseudo_terminal() as (_master, slave):
        said = sentence(lab.engine("restore", "--images-dir", path, "--restore-detached"))
        assert f"{os.ttyname(slave)} (fd " in said and "its number is in use" in said
    lab.restore(path)
    assert victim.ask("look") == "ok"


def test_a_slave_that_is_used_outside(lab: Lab) -> None:
    victim, _parent = start(lab, "lines")
    links = [os.readlink(f"/proc/{victim.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{victim.pid}/fd")]
    slave = os.open(next(link for link in links if re.fullmatch(r"/dev/pts/\d+", link)), os.O_RDWR | os.O_NOCTTY)
    user = lab.spawn([*PROGRAM, "lead", "/bin/true"], stdin=slave, start_new_session=False)
    os.close(slave)
    until(lambda: Path(f"/proc/{user.pid}/stat").read_text().rpartition(")")[2].split()[4] != "0", "nobody uses the terminal")
    said = sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1")))
    assert f"its slave is the terminal of process {user.pid}, outside of the tree" in said
    assert victim.ask("read") == "ok"
