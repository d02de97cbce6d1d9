# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that cannot be carried are found while they run; a task in a restartable sequence can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from _engine.kernel import procfs, ptrace
from _engine.resources import core, preflight, seccomp
from _engine.resources.credentials import Capabilities
from _engine.tracee.freeze import FrozenTree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it makes namespaces and traces tasks")
PROGRAMS = Path(__file__).parents[1] / "programs"
SECCOMP = """
import ctypes, struct, sys
libc = ctypes.CDLL(None)
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack("H6xQ", 1, ctypes.addressof(allow)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""
READY = ["sh", "-c", "echo ready; read line"]


class Victim:
    """A process that says when it is ready, and ends with the test."""

    def __init__(self, command: List[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self.process.pid


def wheres(pid: int) -> List[str]:
    return [obstacle.where for obstacle in preflight.obstacles(pid)]


def test_seccomp_filter_is_named_where_it_cannot_be_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    with Victim([sys.executable, "-c", SECCOMP]) as victim:
        assert victim.says() == "ready"
        assert wheres(victim.pid) == []
        monkeypatch.setattr(seccomp, "own_capabilities", lambda: Capabilities(0, 0, 0, 0, 0))
        assert wheres(victim.pid) == [f"seccomp of thread {victim.pid}"]


def test_foreign_namespaces_are_named() -> None:
    with Victim(["unshare", "--uts", "--ipc", *READY]) as victim:
        assert victim.says() == "ready"
        assert wheres(victim.pid) == ["IPC namespace"]


def test_deadline_scheduling_is_named() -> None:
    if shutil.which("chrt") is None:
        pytest.skip("no chrt")
    with Victim(["chrt", "-d", "-T", "1000000", "-D", "10000000", "-P", "10000000", "0", *READY]) as victim:
        if victim.says() != "ready":
            pytest.skip("this machine admits no SCHED_DEADLINE")
        assert wheres(victim.pid) == [f"scheduling of thread {victim.pid}"]


def test_traced_task_is_named() -> None:
    with Victim(READY) as victim:
        assert victim.says() == "ready"
        ptrace.seize(victim.pid)
        try:
            assert wheres(victim.pid) == [f"thread {victim.pid}"]
        finally:
            ptrace.interrupt(victim.pid)
            ptrace.wait(victim.pid)
            ptrace.detach(victim.pid)


LEADERLESS = """
import ctypes, threading
threading.Thread(target=lambda: (print("ready", flush=True), threading.Event().wait())).start()
ctypes.CDLL(None).syscall(60, 0)
"""


def test_a_process_whose_first_thread_has_ended_is_named() -> None:
    with Victim([sys.executable, "-c", LEADERLESS]) as victim:
        assert victim.says() == "ready"
        while procfs.stat(victim.pid).state != "Z":
            os.sched_yield()
        assert wheres(victim.pid) == ["state"]


@pytest.fixture
def critical_section(tmp_path: Path) -> Iterator[Victim]:
    program = tmp_path / "critical_section"
    command = ["gcc", "-O1", "-o", str(program), str(PROGRAMS / "critical_section.c")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this C library has no rseq (glibc 2.35)")
    with Victim([str(program)]) as victim:
        yield victim


def test_a_restartable_sequence_is_aborted(critical_section: Victim) -> None:
    start, end, abort, aborts = (int(word, 16) for word in critical_section.says().split())
    pid, inside = critical_section.pid, False
    while not inside:
        with FrozenTree(pid, 10) as tree:
            before = tree.tasks[0].leader.registers().ip
            state = core.collect(pid, tree.tasks[0].threads)
            inside = start <= before < end or before == abort
            counted = procfs.read_memory(pid, aborts, 8)
    assert state.threads[0].registers.ip == abort
    deadline = time.monotonic() + 10
    while procfs.read_memory(pid, aborts, 8) == counted:  # it goes on in its abort handler
        assert time.monotonic() < deadline
