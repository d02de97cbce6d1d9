# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Seccomp binds a restored program as it did before, and hinders neither a dump nor a restore."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from look import assert_same, look, tree
from victim import Lab, sentence


def counts(root: int) -> list[tuple[int, str]]:
    """Return how many filters each thread under ROOT has."""
    threads = [(pid, tid) for pid in tree(root) for tid in os.listdir(f"/proc/{pid}/task")]
    lines = [(int(tid), line) for pid, tid in threads for line in Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()]
    return sorted((tid, line) for tid, line in lines if line.startswith("Seccomp"))


def test_filters_and_strict_mode_are_restored(lab: Lab) -> None:
    victim = lab.start("sandbox")
    victim.await_rest()
    before, filters = look(victim.pid), counts(victim.pid)
    first = lab.dump(victim.pid, "1", "--leave-running", "--track-mem")
    assert victim.ask() == "ok"
    victim.await_rest()
    second = lab.dump(victim.pid, "2", "--prev-images-dir", "../1", "--leave-running", "--track-mem")
    assert victim.ask("add") == "ok"
    victim.await_rest()
    third = lab.dump(victim.pid, "3", "--prev-images-dir", "../2")
    lab.reap()
    for path in (first, second):
        lab.restore(path, *(["--track-mem"] if path == first else []))
        assert counts(victim.pid) == filters
        if path == first:
            assert_same(before, look(victim.pid))
        assert victim.ask() == "ok"
        assert victim.ask("add") == "ok"
        assert victim.ask("break") == "ok"
        lab.end(victim.pid)
    lab.restore(third)
    assert victim.ask() == "ok"
    assert victim.ask("break") == "ok"


ASKING = """
import ctypes, struct, sys
libc = ctypes.CDLL(None)
code = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x15, 0, 1, 167) + struct.pack("HBBI", 6, 0, 0, 0x7FC00000)
code = ctypes.create_string_buffer(code + struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("H6xQ", 4, ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
import os, signal
os.close(int(sys.argv[1]))
signal.pause()
"""


def test_a_filter_with_a_supervisor_is_refused_by_name(lab: Lab) -> None:
    ready, theirs = os.pipe()
    process = lab.spawn([sys.executable, "-c", ASKING, str(theirs)], pass_fds=[theirs])
    os.close(theirs)
    assert os.read(ready, 1) == b""
    os.close(ready)
    done = lab.engine("dump", "--tree", process.pid, "--images-dir", lab.images("1"))
    assert done.returncode == 1 and f"seccomp of thread {process.pid}" in done.stderr and "supervisor" in done.stderr
    assert process.poll() is None


def test_a_filter_that_asks_a_supervisor_is_refused(lab: Lab) -> None:
    victim = lab.start("unsupported", "seccomp")
    victim.await_rest()
    before, images = look(victim.pid), lab.images("1")
    assert "asks a supervisor" in sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", images))
    victim.await_rest()
    assert_same(before, look(victim.pid))
    assert os.listdir(images) == []
    assert victim.ask() == "ok"
