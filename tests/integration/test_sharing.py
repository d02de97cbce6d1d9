# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that share descriptor tables and directories share them again."""

from __future__ import annotations

import os
import sys

from look import assert_same, look, tree
from victim import Lab, pauses, until


def test_tables_are_shared_again(lab: Lab) -> None:
    victim = lab.start("shared_tables")
    victim.await_rest()
    before = look(victim.pid)
    first = lab.dump(victim.pid, "1", "--leave-running", "--track-mem")
    assert_same(before, look(victim.pid))
    assert victim.ask() == "ok"
    second = lab.dump(victim.pid, "2", "--prev-images-dir", "../1")
    lab.reap()
    for path in (first, second):
        lab.restore(path, *(["--track-mem"] if path == first else []))
        if path == first:
            assert_same(before, look(victim.pid))
        assert victim.ask() == "ok"
        assert victim.ask() == "ok"
        lab.end(victim.pid)


ORPHAN = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
clone = lambda: libc.syscall(56, 0x400 | signal.SIGCHLD, 0, 0, 0, 0)
assert libc.prctl(36, 1, 0, 0, 0) == 0
middle = os.fork()
if not middle:
    if clone():
        if clone():
            os._exit(0)
    while True:
        signal.pause()
os.waitpid(middle, 0)
while True:
    signal.pause()
"""


def test_siblings_that_share_a_table_are_refused_by_name(lab: Lab) -> None:
    root = lab.spawn([sys.executable, "-c", ORPHAN]).pid
    until(lambda: len(tree(root)) == 3 and all(pauses(pid) for pid in tree(root)), "the orphans do not come")
    done = lab.engine("dump", "--tree", root, "--images-dir", lab.images("1"))
    assert done.returncode == 1 and f"process {tree(root)[2]}, descriptor table: it shares that with process" in done.stderr
    assert all(os.path.exists(f"/proc/{pid}") for pid in tree(root))
