# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Carrying out the steps by which the processes of a tree come to be (`resources/pstree.py` finds them)."""

from __future__ import annotations

import signal
from typing import Callable, Mapping, Sequence

from .resources import pstree, sharing
from .tracee.stubs import Stubs
from .tracee.tracee import Tracee


def _alone(_pid: int, _leader: Tracee) -> None:
    """Leave a session without a terminal."""


def carry_out(
    step: pstree.Step,
    stubs: Stubs,
    shared: Mapping[int, Sequence[int]],
    exit_signals: Mapping[int, int],
    lead: Callable[[int, Tracee], None] = _alone,
) -> None:
    """Carry out STEP. SHARED: files_id and fs_id of each process; EXIT_SIGNALS: what its parent is sent when it ends.

    LEAD has a process that has just made its session do what it can do only now. Raises OSError.
    """
    task = stubs.leaders[step.actor]
    if step.call == pstree.FORK:
        flags = sharing.flags(shared, step.actor, step.argument)
        stubs.create_child(task, step.argument, flags, exit_signals.get(step.argument, signal.SIGCHLD))
    elif step.call == pstree.FORK_BESIDE:
        stubs.create_sibling(task, step.argument)
    elif step.call == pstree.END:
        stubs.end_helper(step.actor, step.argument)
    elif step.call == pstree.SETSID:
        task.call("setsid")
        lead(step.actor, task)
    else:
        task.call("setpgid", 0, step.argument)
