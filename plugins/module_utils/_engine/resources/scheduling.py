# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling of a thread: policy, priority, nice (thread_core_entry); affinity, timer slack, I/O priority (our own fields)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, FrozenSet, List, Sequence

from ..errors import Obstacle
from ..kernel import procfs
from ..kernel.prctl import PR_GET_TIMERSLACK, PR_SET_TIMERSLACK
from ..kernel.syscall import syscall
from ..tracee.calls import Call, Reply
from ..tracee.tracee import Tracee
from .batch import Order, refusal

# include/uapi/linux/sched.h
_SCHED_FIFO, _SCHED_RR, _SCHED_DEADLINE, _SCHED_EXT = 1, 2, 6, 7
_SCHED_RESET_ON_FORK = 0x40000000
_REFUSED = {_SCHED_DEADLINE: "SCHED_DEADLINE", _SCHED_EXT: "SCHED_EXT"}
_IOPRIO_WHO_PROCESS = 1  # include/uapi/linux/ioprio.h
_IOPRIO_CLASS_SHIFT = 13


@dataclass(frozen=True)
class Scheduling:
    """How one thread is scheduled."""

    policy: int
    """SCHED_…, with SCHED_RESET_ON_FORK where that is set."""
    priority: int
    nice: int
    affinity: FrozenSet[int]
    """The processors that it is bound to; empty when it may run on all that are online."""
    timer_slack: int
    """Nanoseconds; 0 for a real-time thread."""
    io_priority: int
    """As ioprio_get(2) gives it, 0 when none was set."""


CALLS = (Call("prctl", (PR_GET_TIMERSLACK, 0, 0, 0, 0)),)


def obstacles(pid: int, tid: int) -> List[Obstacle]:
    """Return what cannot be carried of the scheduling of thread TID: policies with parameters of their own."""
    policy = _REFUSED.get(procfs.stat(tid).policy)
    if policy is None:
        return []
    return [Obstacle(pid, f"scheduling of thread {tid}", f"{policy} cannot be restored", "give it another policy (chrt)")]


def of_thread(thread: Tracee, replies: Sequence[Reply], processors: FrozenSet[int]) -> Scheduling:
    """Return the scheduling of THREAD; REPLIES are those to CALLS, PROCESSORS those that are online. Raises OSError."""
    tid = thread.tid
    policy = os.sched_getscheduler(tid)
    realtime = policy & ~_SCHED_RESET_ON_FORK in (_SCHED_FIFO, _SCHED_RR)
    affinity = frozenset(os.sched_getaffinity(tid))
    io_priority = syscall("ioprio_get", _IOPRIO_WHO_PROCESS, tid)
    return Scheduling(
        policy,
        os.sched_getparam(tid).sched_priority if realtime else 0,
        os.getpriority(os.PRIO_PROCESS, tid),
        frozenset() if affinity >= processors else affinity,
        replies[0].check(),
        io_priority if io_priority >> _IOPRIO_CLASS_SHIFT else 0,
    )


def online() -> FrozenSet[int]:
    """Return the processors that are online."""
    return procfs.ranges(procfs.text("/sys/devices/system/cpu/online"))


def fill(thread_core: Any, own: Scheduling) -> None:
    """Put the scheduling OWN of a thread into THREAD_CORE, a thread_core_entry."""
    thread_core.sched_policy, thread_core.sched_nice = own.policy, own.nice
    if own.priority:
        thread_core.sched_prio = own.priority
    thread_core.stillframe.timer_slack = own.timer_slack
    if own.affinity:
        mask = sum(1 << cpu for cpu in own.affinity)
        thread_core.stillframe.affinity = mask.to_bytes(mask.bit_length() // 64 * 8 + 8, "little")
    if own.io_priority:
        thread_core.stillframe.ioprio = own.io_priority


def read(thread_core: Any) -> Scheduling:
    """Return the scheduling in THREAD_CORE, a thread_core_entry."""
    extra = thread_core.stillframe
    mask = int.from_bytes(extra.affinity, "little")
    affinity = frozenset(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)
    return Scheduling(
        thread_core.sched_policy, thread_core.sched_prio, thread_core.sched_nice, affinity, extra.timer_slack, extra.ioprio
    )


def check(pid: int, tid: int, thread_core: Any) -> List[Obstacle]:
    """Return an obstacle when thread TID is bound to processors that are not here."""
    affinity = read(thread_core).affinity
    if not affinity or affinity & online():
        return []
    why = f"it is bound to processors {sorted(affinity)}, none of which is online"
    return [Obstacle(pid, f"scheduling of thread {tid}", why, "restore on a machine that has them, or unbind it before the dump")]


def restore_affinity(thread: Tracee, thread_core: Any) -> None:
    """Bind THREAD to the processors that THREAD_CORE says. Raises RestoreError."""
    try:
        os.sched_setaffinity(thread.tid, read(thread_core).affinity or online())
    except OSError as error:
        raise refusal(thread, "processor affinity", error) from error


def orders(thread_core: Any) -> List[Order]:
    """Return what schedules a thread as THREAD_CORE says, but for its affinity."""
    own = read(thread_core)
    calls = [
        Call("setpriority", (os.PRIO_PROCESS, 0, own.nice)),
        Call("sched_setscheduler", (0, own.policy, struct.pack("<i", own.priority))),
    ]
    if own.timer_slack:
        calls.append(Call("prctl", (PR_SET_TIMERSLACK, own.timer_slack, 0, 0, 0)))
    if own.io_priority:
        calls.append(Call("ioprio_set", (_IOPRIO_WHO_PROCESS, 0, own.io_priority)))
    return [Order("scheduling", calls)]
