# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which numbers of processes are free."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from _engine.resources import numbers


def _member(group: int) -> int:
    """Return a child of ours in GROUP, 0 for one of its own, that does nothing."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    os.setpgid(pid, group)
    return pid


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def left() -> Iterator[tuple[int, int]]:
    """A number that only a group has, whose leader has ended, and the process that is left of it."""
    leader = _member(0)
    member = _member(leader)
    _end(leader)
    yield leader, member
    with suppress(ProcessLookupError, ChildProcessError):  # the test may have done so
        _end(member)


def test_a_number_that_nobody_has() -> None:
    pid = _member(0)
    _end(pid)
    assert numbers.check([pid]) == []


def test_the_number_of_a_process() -> None:
    (found,) = numbers.check([os.getpid()])
    assert found.where == f"PID {os.getpid()}" and "in use on this machine, by" in found.why


def test_the_number_of_a_group_whose_leader_has_ended(left: tuple[int, int]) -> None:
    leader, member = left
    (found,) = numbers.check([leader])
    assert found.where == f"PID {leader}" and f"as the session or group of process {member}" in found.why


def test_a_group_whose_last_process_is_yet_to_be_reaped_is_waited_for(left: tuple[int, int]) -> None:
    leader, member = left
    os.kill(member, signal.SIGKILL)
    reaper = threading.Timer(0.3, os.waitpid, (member, 0))
    reaper.start()
    assert numbers.check([leader]) == []
    reaper.join()
