# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Losing no time on a loaded host, for the short while that somebody's processes stand still (sched(7))."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOWEST = 1
"""Of the real-time priorities: above all ordinary processes, below everything that was given one by somebody."""


def hasten(tid: int) -> None:
    """Let thread TID, a stub that gets its own scheduling later, run as soon as it can, if that may be."""
    with suppress(PermissionError):  # no CAP_SYS_NICE, or no real-time share for our cgroup
        os.sched_setscheduler(tid, os.SCHED_RR, os.sched_param(_LOWEST))


def calm(tid: int) -> None:
    """Schedule thread TID as usual again: what it creates would have no timer slack to go back to (PR_SET_TIMERSLACK, Linux 6.10)."""
    with suppress(PermissionError):
        os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def urgent() -> Iterator[None]:
    """Let this thread run as soon as it can, if it may, and collect no garbage; what it starts meanwhile is scheduled as usual."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    ordinary = policy & ~os.SCHED_RESET_ON_FORK in (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)
    if ordinary:
        with suppress(PermissionError):  # no CAP_SYS_NICE, or no real-time share for our cgroup
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(_LOWEST))
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
        if ordinary and os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)
