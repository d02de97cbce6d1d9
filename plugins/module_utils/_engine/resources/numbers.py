# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of processes and threads that a tree wants, and whether they are free."""

from __future__ import annotations

import os
import time
from typing import Iterable, Iterator, List

from ..errors import Obstacle
from ..kernel import procfs

_REAPING_TIME, _REAPING_STEP = 5.0, 0.01
"""Seconds."""


def check(tids: Iterable[int]) -> List[Obstacle]:
    """Return those of TIDS that are in use, when what ends already had the time to."""
    wanted = list(tids)
    _await_reaping(wanted)
    return [obstacle for tid in wanted for obstacle in _taken(tid)]


def _await_reaping(tids: List[int]) -> None:
    """Give threads that are ending, by a dump or by SIGKILL most likely, and their parents time to let go of the numbers TIDS.

    No event tells that a zombie was reaped.
    """
    deadline = time.monotonic() + _REAPING_TIME
    while any(map(_comes_free, tids)) and time.monotonic() < deadline:
        time.sleep(_REAPING_STEP)


def _comes_free(tid: int) -> bool:
    """Tell whether all who use number TID are ending."""
    members = _members(tid)
    return procfs.ends(tid) or (bool(members) and all(map(procfs.ends, members)))


def _members(number: int) -> List[int]:
    """Return the processes of group NUMBER, whose leader has ended: no process can have its number before they are gone (clone3(2))."""
    if os.path.exists(f"/proc/{number}"):
        return []
    try:
        os.killpg(number, 0)
    except (ProcessLookupError, OverflowError):
        return []
    except PermissionError:
        pass  # it is there
    return [pid for pid in procfs.processes() if number in procfs.numbers(pid)]


def _taken(tid: int) -> Iterator[Obstacle]:
    members = _members(tid)
    user, use = (members[0], f" as the session or group of process {members[0]}") if members else (tid, "")
    try:
        comm = procfs.text(f"/proc/{user}/comm").strip()
    except procfs.GONE:
        return
    remedy = "end that process, or restore in a PID namespace of its own"
    yield Obstacle(0, f"PID {tid}", f"it is in use on this machine{use}, by {comm}", remedy)
