# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System V shared memory: the same segments, attached where they were, with the content of the dump."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _engine.kernel import sysvipc
from _engine.kernel.sysvipc import Segment
from look import assert_same, look
from victim import Lab, Victim, sentence

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no segment of a test behind."""
    before = set(sysvipc.segments())
    yield
    for number in set(sysvipc.segments()) - before:
        sysvipc.remove(number)


def of(victim: Victim) -> dict[int, Segment]:
    """Return the segments that VICTIM has made, but for who came last."""
    return {number: one for number, one in sysvipc.segments().items() if one.creator == victim.pid}


def test_segments_outlive_a_dump_and_are_taken_again(lab: Lab) -> None:
    victim = lab.start("sysv")
    assert victim.ask() == "ok"
    running = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("change") == "ok"
    victim.await_rest()
    before, segments = look(victim.pid), of(victim)
    last = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    assert len(of(victim)) == 2  # the third one was to go with its last attachment
    lab.restore(last)
    victim.await_rest()
    assert_same(before, look(victim.pid))
    assert {number: one._replace(creator=0) for number, one in sysvipc.segments().items() if number in segments} == {
        number: one._replace(creator=0) for number, one in segments.items()
    }
    assert victim.ask("changed") == "ok"
    lab.end(victim.pid)
    lab.restore(running)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_segments_that_are_gone_are_made_again(lab: Lab) -> None:
    victim = lab.start("sysv")
    assert victim.ask() == "ok"
    victim.await_rest()
    before, segments = look(victim.pid), of(victim)
    images = lab.dump(victim.pid, "1")
    lab.reap()
    for number in of(victim):
        sysvipc.remove(number)
    lab.restore(images)
    victim.await_rest()
    assert_same(before, look(victim.pid))
    made = {number: one for number, one in sysvipc.segments().items() if number in segments}
    assert {number: one._replace(creator=0) for number, one in made.items()} == {
        number: one._replace(creator=0) for number, one in segments.items()
    }
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_a_segment_of_others_is_left_alone(lab: Lab) -> None:
    victim = lab.start("sysv")
    number = next(number for number, one in of(victim).items() if not one.mode & sysvipc.SHM_DEST)
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(number, None, 0)
    refused = sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1")))
    assert f"segment {number} is attached by process {os.getpid()} outside of the tree too" in refused
    libc.shmdt(ctypes.c_void_p(address))
    assert victim.ask() == "ok"
    images = lab.dump(victim.pid, "2")
    lab.reap()
    address = libc.shmat(number, None, 0)
    before = Path("/proc/sysvipc/shm").read_text().splitlines()
    refused = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert "processes of this machine have it attached" in refused
    assert len(Path("/proc/sysvipc/shm").read_text().splitlines()) == len(before)
    assert not os.path.exists(f"/proc/{victim.pid}")
    libc.shmdt(ctypes.c_void_p(address))
