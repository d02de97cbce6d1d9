# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sessions and process groups that are left when the process that made them has ended."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from look import assert_same, look, tree
from victim import Lab, children, pauses, until

QUIET = {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
"""The kernel does not write the number of the CPU into the memory of such a program."""
DAEMON = """
import os, signal, sys
def child(work):
    pid = os.fork()
    if not pid:
        work()
        while True:
            signal.pause()
    return pid
def worker():
    os.setpgid(0, 0)
if os.fork():
    os._exit(0)
child(worker)
child(lambda: child(lambda: None))
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
while True:
    signal.pause()
"""
REAPER = """
import ctypes, os, signal
def child(work):
    pid = os.fork()
    if not pid:
        work()
        while True:
            signal.pause()
    return pid
def leaver():
    child(lambda: None)
    os.setsid()
def session():
    os.setsid()
    child(lambda: None)
    child(leaver)
    child(lambda: os.setpgid(0, 0))
    pid = os.fork()
    if not pid:
        child(lambda: child(lambda: None))
        os._exit(0)
    os.waitpid(pid, 0)
    os._exit(0)
def living_session():
    os.setsid()
    pid = os.fork()
    if not pid:
        child(lambda: None)
        os._exit(0)
    os.waitpid(pid, 0)
def group():
    os.setpgid(0, 0)
    child(lambda: child(lambda: None))
    os._exit(0)
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
living = child(living_session)
for work in (session, group):
    os.waitpid(child(work), 0)
"""


def at_rest(root: int, count: int) -> bool:
    """Tell whether the tree under ROOT has COUNT processes that all are in pause(2): none that waits for one of them to end."""
    pids = tree(root)
    return len(pids) == count and all(pauses(pid) for pid in pids)


def numbers(root: int) -> dict[int, list[str]]:
    """Return parent, process group and session of each process under ROOT, but for its own parent."""
    rows = {pid: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1:4] for pid in tree(root)}
    return {pid: row if pid != root else row[1:] for pid, row in rows.items()}


def test_a_daemon_whose_session_leader_has_ended(lab: Lab) -> None:
    told = lab.folder / "pid"
    starter = lab.spawn([sys.executable, "-c", DAEMON, str(told)], env=QUIET)
    starter.wait()
    until(lambda: told.exists() and told.read_text() != "", "the daemon does not start")
    root = int(told.read_text())
    until(lambda: at_rest(root, 4), "the daemon does not come to rest")
    before, places = look(root), numbers(root)
    assert places[root][1] != str(root) and not Path(f"/proc/{places[root][1]}").exists()
    path = lab.dump(root, "1")
    lab.reap()
    for _again in range(2):
        lab.restore(path)
        assert numbers(root) == places
        assert_same(before, look(root))
        assert children() - lab.before == {root}
        lab.end(root)


def test_a_reaper_with_what_ended_leaders_left(lab: Lab) -> None:
    root = lab.spawn([sys.executable, "-c", REAPER + "while True: signal.pause()"], env=QUIET).pid
    until(lambda: at_rest(root, 11), "the reaper does not get its orphans")
    before, places = look(root), numbers(root)
    path = lab.dump(root, "1")
    lab.reap()
    lab.restore(path)
    assert numbers(root) == places
    assert_same(before, look(root), "children")  # whose order is that of their making


def test_a_number_that_is_in_use_is_refused_by_name(lab: Lab) -> None:
    told = lab.folder / "pid"
    starter = lab.spawn([sys.executable, "-c", DAEMON, str(told)], env=QUIET)
    starter.wait()
    until(lambda: told.exists() and told.read_text() != "", "the daemon does not start")
    root = int(told.read_text())
    until(lambda: at_rest(root, 4), "the daemon does not come to rest")
    session = os.getsid(root)
    path = lab.dump(root, "1", "--leave-running")
    for pid in tree(root)[:-1]:
        os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    (left,) = children() - lab.before
    assert os.getsid(left) == session
    done = lab.engine("restore", "--images-dir", path, "--restore-detached")
    assert done.returncode == 1 and f"PID {left}" in done.stderr
