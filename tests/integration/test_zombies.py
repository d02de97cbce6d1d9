# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Children that have ended and were not waited for are there again, and end only once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from look import tree
from victim import Lab, state, until

ENDED = """
import os, signal, sys
ends = [0, 3, 200, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGSEGV, -40, 7]
told = []
signal.signal(signal.SIGCHLD, lambda *_: told.append(1))
children = []
for number, end in enumerate(ends):
    child = os.fork()
    if not child:
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number == 1:
            os.setsid()
        if number == 2:
            os.setpgid(0, 0)
        if number == 4:
            os.setresuid(1234, 1234, 1234)
        if end >= 0:
            os._exit(end)
        signal.signal(-end, signal.SIG_DFL) if end != -signal.SIGKILL else None
        os.kill(os.getpid(), -end)
    children.append(child)
for child in children:
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
blocked = len(sys.argv) > 2
if blocked:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    last = os.fork()
    if not last:
        os._exit(9)
    os.waitid(os.P_PID, last, os.WEXITED | os.WNOWAIT)
told.clear()
with open(sys.argv[1]) as go:
    go.read()
assert not told, told
if blocked:
    assert signal.sigpending() == {signal.SIGCHLD}
    assert signal.sigtimedwait({signal.SIGCHLD}, 0).si_pid == last
assert not signal.sigpending(), signal.sigpending()
assert os.waitid(os.P_PID, children[4], os.WEXITED | os.WNOWAIT).si_uid == 1234
for child, end in zip(children, ends):
    pid, status = os.waitpid(child, os.WNOHANG)
    assert (pid, os.waitstatus_to_exitcode(status)) == (child, end), (child, pid, status, end)
if blocked:
    assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 9
try:
    os.wait()
except ChildProcessError:
    os._exit(42)
"""


def what_is_left(pid: int) -> list[str]:
    """Return name, parent, group and session of PID, and how it ended."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return [stat[stat.index("(") : stat.rindex(")")], *fields[1:4], fields[-1]]


@pytest.mark.parametrize("blocked", [False, True])
def test_zombies_are_restored(lab: Lab, blocked: bool) -> None:
    go, errors = lab.folder / "go", lab.folder / "errors"
    os.mkfifo(go)
    with open(errors, "wb") as file:
        words = [sys.executable, "-c", ENDED, str(go), *(["blocked"] if blocked else [])]
        root = lab.spawn(words, stderr=file).pid
    count = 10 if blocked else 9
    until(lambda: [state(pid) for pid in tree(root)] == ["S"] + ["Z"] * (count - 1), "the children do not end")
    zombies = tree(root)[1:]
    before = [what_is_left(pid) for pid in zombies]
    first = lab.dump(root, "1", "--leave-running", "--track-mem")
    assert [what_is_left(pid) for pid in zombies] == before
    second = lab.dump(root, "2", "--prev-images-dir", "../1")
    lab.reap()
    for path in (first, second):
        lab.restore(path)
        assert tree(root)[1:] == zombies and {state(pid) for pid in zombies} == {"Z"}
        assert [what_is_left(pid) for pid in zombies] == before
        if path == first:
            lab.end(root)
    os.close(os.open(go, os.O_WRONLY))
    assert os.waitstatus_to_exitcode(os.waitpid(root, 0)[1]) == 42, errors.read_text()
