# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of a process tree."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from _engine.errors import Obstacle, TargetError
from _engine.process_info import process_info
from process import python, running

HOLDER = """
import os, select, socket, threading
tcp = socket.create_server(("127.0.0.1", 0))
tcp6 = socket.create_server(("::1", 0), family=socket.AF_INET6) if socket.has_ipv6 else None
unix = socket.socket(socket.AF_UNIX); unix.bind("\\0stillframe test %d" % os.getpid()); unix.listen()
idle = socket.socketpair()
poll = select.epoll()
memory = bytearray(8 << 20)
for page in range(0, len(memory), 4096): memory[page] = 1
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""

OBSTACLE = Obstacle(7, "fd 3", "is an inotify instance", "close it")


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What stands for the engine's plan: it records its options, and finds one obstacle if so asked."""
    asked: list[Any] = []
    stub: Any = ModuleType("_engine.dump")
    stub.found = ()

    def answer(options: Any) -> Any:
        asked.append(options)
        return SimpleNamespace(obstacles=stub.found)

    stub.plan = answer
    monkeypatch.setitem(sys.modules, "_engine.dump", stub)
    return asked


def test_a_tree_is_told(plan: list[Any]) -> None:
    before = time.time()
    with running(*python(HOLDER)) as process:
        info = process_info(process.pid)
        (task,) = info.tasks
        assert (task.pid, task.ppid, task.threads, task.uid) == (process.pid, os.getpid(), 2, os.geteuid())
        assert task.cmdline[:2] == (sys.executable, "-c")
        assert task.state in "SR"
        assert 8 << 20 <= task.rss == info.rss < 1 << 30
        assert abs(task.start_time - before) < 5
        assert task.descriptors["eventpoll"] == 1
        assert task.descriptors["socket"] >= 4
        assert task.descriptors["pipe"] == 2
        assert sum(task.descriptors.values()) == len(os.listdir(f"/proc/{process.pid}/fd"))
        listening = {listener.protocol: listener for listener in info.listening}
        assert listening["tcp"].address == "127.0.0.1"
        assert listening["tcp"].port > 0
        assert listening["unix"].address == f"@stillframe test {process.pid}"
        if "tcp6" in listening:
            assert listening["tcp6"].address == "::1"
        json.dumps(asdict(info))


def test_children_are_told_after_their_parents(plan: list[Any]) -> None:
    program = "import subprocess; child = subprocess.Popen(['sleep', '60'])"
    with running(*python(program)) as process:  # Popen returns when the child has executed its program
        parent, child = process_info(process.pid).tasks
        assert (parent.pid, child.ppid, child.comm) == (process.pid, process.pid, "sleep")


def test_obstacles_are_those_of_the_plan(plan: list[Any]) -> None:
    with running("sh", "-c", "echo ready; read line") as process:
        assert process_info(process.pid).dumpable
        sys.modules["_engine.dump"].found = (OBSTACLE,)  # type: ignore[attr-defined]
        info = process_info(process.pid)
    assert (info.dumpable, info.obstacles) == (False, (OBSTACLE,))
    assert plan[0].tree == process.pid


def test_no_such_process(plan: list[Any]) -> None:
    with pytest.raises(TargetError, match="does not exist"):
        process_info(1 << 22)
