# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is a file, in every view of it: one object before the dump and after the restore."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from look import assert_same, look
from victim import Lab, Victim, pauses, until


def restored(lab: Lab, victim: Victim, path: Path, before: dict[str, object]) -> None:
    """Restore a dump of VICTIM, and compare it with what was seen BEFORE."""
    lab.reap()
    lab.restore(path)
    victim.await_rest()
    assert_same(before, look(victim.pid))
    assert victim.ask() == "ok"
    assert victim.ask() == "ok"


def test_all_views_of_an_object_stay_views_of_one(lab: Lab) -> None:
    victim = lab.start("shared_memory")
    assert victim.ask() == "ok"
    victim.await_rest()
    before = look(victim.pid)
    restored(lab, victim, lab.dump(victim.pid, "1"), before)


def test_in_a_chain_and_from_a_snapshot(lab: Lab) -> None:
    victim = lab.start("shared_memory")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running", "--freeze=snapshot")
    assert victim.ask() == "ok"
    victim.await_rest()
    before = look(victim.pid)
    path = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    lab.restore(path, "--track-mem")
    assert victim.ask() == "ok"
    victim.await_rest()
    before = look(victim.pid)
    restored(lab, victim, lab.dump(victim.pid, "3", "--prev-images-dir=../2"), before)


PROGRAM_IN_MEMORY = """
import ctypes, os
fd = ctypes.CDLL(None).memfd_create(b"program", 1)
os.sendfile(fd, os.open("/bin/sleep", os.O_RDONLY), 0, 1 << 24)
reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
os.close(fd)
os.dup2(os.open("/dev/null", os.O_RDWR), 1)
os.dup2(1, 0)
os.dup2(1, 2)
os.execve(reading, ["sleep", "infinity"], {"GLIBC_TUNABLES": "glibc.pthread.rseq=0"})
"""


def test_a_program_that_runs_from_memory(lab: Lab) -> None:
    process = lab.spawn([sys.executable, "-c", PROGRAM_IN_MEMORY])
    until(lambda: pauses(process.pid), "it does not wait")
    before = look(process.pid)
    path = lab.dump(process.pid, "1")
    lab.reap()
    lab.restore(path)
    assert os.readlink(f"/proc/{process.pid}/exe") == "/memfd:program (deleted)"
    assert_same(before, look(process.pid))
