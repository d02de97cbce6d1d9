# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of several processes: pipelines, sessions and groups, stopped and half-dead tasks, programs nobody wrote for this."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

import pytest

from look import assert_same, look, tree
from victim import PATIENCE, Lab, read_line, state, until

PYTHON_TREE = """
import os, signal, sys, time
def child(work):
    pid = os.fork()
    if not pid:
        work()
        signal.pause()
    return pid
def grandchild():
    os.setsid()
    child(lambda: os.setpgid(0, 0))
    child(lambda: None)
def own_group():
    os.setpgid(0, 0)
def thread():
    import threading
    threading.Thread(target=lambda: time.sleep(100000), daemon=True).start()
    if len(sys.argv) > 1:
        sys.stdin.read()
children = [child(grandchild), child(own_group), child(thread)]
joined = child(lambda: None)
os.setpgid(children[1], children[1])
os.setpgid(joined, children[1])
"""


def await_tree(root: int, count: int) -> list[int]:
    """Return the processes under ROOT when there are COUNT and all wait."""
    what = f"process {root} does not have {count} tasks that wait"
    until(lambda: len(tree(root)) == count and all(state(pid) in "STZ" for pid in tree(root)), what)
    return tree(root)


def test_sessions_and_groups_are_as_before(lab: Lab) -> None:
    root = lab.spawn([sys.executable, "-c", PYTHON_TREE + "signal.pause()"], env={"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}).pid
    await_tree(root, 7)
    before = look(root)
    first = lab.dump(root, "1", "--leave-running", "--track-mem")
    assert_same(before, look(root))
    second = lab.dump(root, "2", "--prev-images-dir", "../1")
    lab.reap()
    for path in (first, second, first):
        lab.restore(path)
        await_tree(root, 7)
        assert_same(before, look(root))
        lab.end(root)


def test_a_pipeline_goes_on_where_it_was(lab: Lab) -> None:
    fifo, out = lab.folder / "go", lab.folder / "out"
    os.mkfifo(fifo)
    end = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
    count = f"i=0; while read line; do i=$((i+1)); echo $i $line; done <{fifo}"
    tell = f"while read a b; do echo got $a $b >>{out}; echo $a; done >{out}.fifo"
    os.mkfifo(f"{out}.fifo")
    answers = os.open(f"{out}.fifo", os.O_RDWR | os.O_CLOEXEC)
    root = lab.spawn(["bash", "-c", f"{count} | cat | {tell}; exit 7"]).pid

    def say(word: str) -> str:
        os.write(end, f"{word}\n".encode())
        return read_line(answers, root)

    assert say("one") == "1"
    await_tree(root, 4)
    before = look(root, memory=False)
    first = lab.dump(root, "1", "--leave-running", "--track-mem")
    assert_same(before, look(root, memory=False))
    assert say("two") == "2"
    second = lab.dump(root, "2", "--prev-images-dir", "../1")
    lab.reap()
    lab.restore(first)
    assert_same(before, look(root, memory=False))
    assert say("again") == "2"
    lab.end(root)
    lab.restore(second)
    assert say("three") == "3"
    assert out.read_text().splitlines() == ["got 1 one", "got 2 two", "got 2 again", "got 3 three"]


def test_a_pipe_that_is_always_full_loses_nothing(lab: Lab) -> None:
    fifo = lab.folder / "numbers"
    os.mkfifo(fifo)
    numbers = os.open(fifo, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    root = lab.spawn(["sh", "-c", f"seq 1 100000000 | cat >{fifo}"]).pid
    got = read_some(numbers, 1 << 20)
    path = lab.dump(root, "1")
    lab.reap()
    in_the_fifo = read_all(numbers)
    lab.restore(path)
    again = read_some(numbers, 1 << 20)  # what only a process outside the tree can read is not the tree's
    found = [int(line) for line in (got + in_the_fifo + again).split(b"\n")[:-1]]
    assert found == list(range(1, len(found) + 1))


def read_some(fd: int, size: int) -> bytes:
    """Return SIZE bytes or a few more from FD, waiting for them."""
    got = b""
    while len(got) < size:
        assert select.select([fd], [], [], PATIENCE)[0], f"nothing comes after {len(got)} bytes"
        got += os.read(fd, 1 << 16)
    return got


def read_all(fd: int) -> bytes:
    """Return what lies in FD, a pipe."""
    got = b""
    with suppress(BlockingIOError):
        while True:
            got += os.read(fd, 1 << 16)
    return got


@pytest.mark.parametrize("leave", ["running", "killed"])
def test_a_stopped_task_stays_stopped_until_it_is_continued(lab: Lab, leave: str) -> None:
    victim = lab.start("channels")
    victim.await_rest()
    os.kill(victim.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    path = lab.dump(victim.pid, "1", *(["--leave-running"] if leave == "running" else []))
    if leave == "killed":
        lab.reap()
        lab.restore(path)
    assert state(victim.pid) == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask() == "ok"


def test_leave_stopped_on_both_sides(lab: Lab) -> None:
    victim = lab.start("channels")
    path = lab.dump(victim.pid, "1", "--leave-stopped")
    assert state(victim.pid) == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask() == "ok"
    lab.end(victim.pid)
    lab.restore(path, "--leave-stopped")
    assert state(victim.pid) == "T"
    os.kill(victim.pid, signal.SIGCONT)
    assert victim.ask() == "ok"


def test_how_a_restored_child_ends_reaches_its_parent(lab: Lab) -> None:
    script = "import os, signal\nif not os.fork():\n    signal.pause()\nos._exit(os.waitstatus_to_exitcode(os.wait()[1]) + 100)\n"
    root = lab.spawn([sys.executable, "-c", script]).pid
    _root, child = await_tree(root, 2)
    path = lab.dump(root, "1")
    lab.reap()
    lab.restore(path)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(root, 0)[1]) == 100 - signal.SIGTERM


def test_a_parent_in_vfork_is_dumped_or_refused_and_runs_on(lab: Lab) -> None:
    program = lab.spawn([str(lab.program("vforked"))])
    root, child = await_vfork(program.pid)
    done = lab.engine("dump", "--tree", root, "--images-dir", lab.images("1"), "--leave-running", "--timeout", 2)
    assert done.returncode == 1 and f"memory: it shares that with its parent {root}" in done.stderr
    assert (state(root), state(child)) == ("D", "S")
    os.kill(child, signal.SIGTERM)
    assert program.wait(PATIENCE) == 0


def await_vfork(root: int) -> list[int]:
    """Return ROOT and its child, when the child waits and the parent waits for it."""
    until(lambda: [state(pid) for pid in tree(root)] == ["D", "S"], f"process {root} is not held by vfork")
    return tree(root)
