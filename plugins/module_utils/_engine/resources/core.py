# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a task and its threads: core-PID of the leader, core-TID of each other thread (images/core.proto of CRIU).

Each kind of state has a file of its own, with its dump and its restore; here they are put together and in order.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any, FrozenSet, List, Optional, Sequence, Tuple

from ..errors import Obstacle
from ..images.schema import message
from ..kernel import cgroups, procfs
from ..tracee.arch.x86_64 import Registers
from ..tracee.tracee import Tracee
from . import attributes, credentials, numa, registers, rlimits, scheduling, seccomp, signals, threads, timers
from .batch import ask, order, order_all
from .cgroup_roots import NO_ROOTS, Roots
from .cgroups import SetTable
from .memory import locked

TASK_ALIVE, TASK_DEAD, TASK_STOPPED = 1, 2, 3
"""task_core_entry.task_state (compel's task-state.h)."""


@dataclass(frozen=True)
class Thread:
    """All of the state of one thread."""

    tid: int
    registers: Registers
    xstate: bytes
    """The standard-format XSAVE area."""
    registered: threads.ThreadState
    signals: signals.ThreadSignals
    scheduling: scheduling.Scheduling
    credentials: credentials.Credentials
    seccomp: seccomp.Seccomp
    cgroups: Tuple[cgroups.Member, ...]
    numa: Optional[Any]
    """Its stillframe_numa_policy, None for the default one."""


@dataclass(frozen=True)
class TaskState:
    """All of the state of one process that is not memory, descriptors or file system."""

    pid: int
    stop_signal: int
    """The signal that had stopped it before the dump, or 0."""
    threads: Tuple[Thread, ...]
    """The leader first."""
    actions: Tuple[signals.Action, ...]
    """Of signals 1 to 64 but SIGKILL and SIGSTOP."""
    pending: Tuple[bytes, ...]
    timers: timers.Timers
    limits: Tuple[rlimits.Limit, ...]
    attributes: attributes.Attributes


_THREAD_CALLS = (signals.STACK_CALLS, threads.CALLS, scheduling.CALLS, credentials.CALLS, numa.CALLS)


def collect(pid: int, tracees: Sequence[Tracee], stop_signal: int = 0) -> TaskState:
    """Read the state of PID, whose threads TRACEES are stopped, the leader first: one batch in each.

    Raises OSError when the kernel refuses, UnsupportedError when a thread has processor state that cannot be carried.
    """
    leader = tracees[0]
    pending = signals.shared_pending(leader)
    clocks = timers.posix_timers(pid)
    process_calls = (signals.ACTION_CALLS, timers.calls(clocks), rlimits.CALLS, attributes.CALLS)
    replies = ask(leader, _THREAD_CALLS + process_calls)
    actions, times, limits, values = replies[len(_THREAD_CALLS) :]
    processors = scheduling.online()
    found = [_thread(leader, replies, processors)]
    found += [_thread(tracee, ask(tracee, _THREAD_CALLS), processors) for tracee in tracees[1:]]
    return TaskState(
        pid,
        stop_signal,
        tuple(found),
        signals.actions(actions),
        pending,
        timers.decode(clocks, times),
        rlimits.decode(limits),
        attributes.of_process(pid, values, locked.future(leader)),
    )


def _thread(tracee: Tracee, replies: Sequence[Any], processors: FrozenSet[int]) -> Thread:
    stack, registered, slack, secure_bits, policy = replies[: len(_THREAD_CALLS)]
    general, extended = registers.of_thread(tracee)
    status = procfs.status(tracee.pid, tracee.tid)
    return Thread(
        tracee.tid,
        general,
        extended,
        threads.of_thread(tracee, registered),
        signals.of_thread(tracee, stack),
        scheduling.of_thread(tracee, slack, processors),
        credentials.decode(status, secure_bits),
        seccomp.of_thread(tracee, status),
        cgroups.of_thread(tracee.pid, tracee.tid),
        numa.decode(policy[0]),
    )


@dataclass(frozen=True)
class Tables:
    """What the tasks of a dump have in common, and name by number."""

    filters: seccomp.FilterTable
    cgroups: SetTable

    def write(self, images: Any) -> None:
        """Write the images. Raises ImagesError."""
        self.filters.write(images)
        self.cgroups.write(images)


def tables(manage_cgroups: str, roots: Roots = NO_ROOTS, controllers: Sequence[str] = (), yard: str = "") -> Tables:
    """Return new tables, for a dump that manages cgroups in that way: see SetTable."""
    return Tables(seccomp.FilterTable(), SetTable(manage_cgroups, roots, controllers, yard))


def images(state: TaskState, common: Tables) -> List[Tuple[str, Any]]:
    """Return the core images of STATE, each a name ("core-123") and its core_entry; the leader's first. What it names goes into COMMON."""
    found = [(f"core-{thread.tid}", _core(state, thread, common)) for thread in state.threads]
    common.filters.fill([core for _name, core in found], [thread.seccomp for thread in state.threads])
    return found


def _core(state: TaskState, thread: Thread, common: Tables) -> Any:
    core = message("core_entry")()
    registers.fill(core, thread.registers, thread.xstate)
    thread_core = core.thread_core
    thread_core.cg_set = common.cgroups.number(thread.cgroups)
    threads.fill(core, thread.registered)
    signals.fill_thread(thread_core, thread.signals)
    scheduling.fill(thread_core, thread.scheduling)
    numa.fill(thread_core.stillframe, thread.numa)
    credentials.fill(thread_core, thread.credentials)
    credentials.fill_label(thread_core, state.pid, thread.tid)
    if thread.tid == state.pid:
        _fill_process(core.tc, state)
    else:
        thread_core.blk_sigset = thread.signals.blocked
    return core


def _fill_process(tc: Any, state: TaskState) -> None:
    tc.task_state, tc.exit_code = TASK_STOPPED if state.stop_signal else TASK_ALIVE, 0
    if state.stop_signal:
        tc.stop_signo = state.stop_signal
    tc.comm = threads.printable(state.attributes.comm)
    tc.blk_sigset = state.threads[0].signals.blocked
    signals.fill_process(tc, state.actions, state.pending)
    timers.fill(tc, state.timers)
    rlimits.fill(tc, state.limits)
    attributes.fill(tc, state.attributes)


def check(pid: int, cores: Sequence[Any], filters: Sequence[Any]) -> List[Obstacle]:
    """Return what stands in the way of restoring PID here.

    CORES are its core_entry messages, the leader's first; FILTERS those of seccomp, of all processes.
    """
    found = seccomp.check(pid, cores, filters) + rlimits.check(pid, cores[0].tc) + attributes.check(pid, cores[0].tc)
    found += numa.check(pid, [core.thread_core for core in cores])
    for core in cores:
        thread_core = core.thread_core
        found += registers.check(pid, core) + credentials.check(pid, thread_core) + scheduling.check(pid, pid, thread_core)
    return sorted(set(found), key=str)


def restore_process(leader: Tracee, core: Any) -> None:
    """Give the process what all its threads share, with LEADER still fully privileged; all its threads exist.

    CORE is the leader's core_entry. Raises RestoreError.
    """
    attributes.restore_early(leader, core.tc)
    rlimits.restore(leader, core.tc)
    timers.create(leader, core.tc)
    signals.restore_process(leader, core.tc)
    order(leader, "locks on memory", locked.restore_future(core.tc))


def restore_thread(thread: Tracee, core: Any, death_signal: bool = True) -> None:
    """Give THREAD what is its own, its privileges last. CORE is its core_entry. Raises RestoreError.

    Without DEATH_SIGNAL it gets none when its parent ends: for a root whose parent, the engine, will end when it is done.
    """
    thread_core = core.thread_core
    threads.unregister_rseq(thread)
    scheduling.restore_affinity(thread, thread_core)
    own = [*threads.orders(core), *scheduling.orders(thread_core), *numa.orders(thread_core), *signals.orders(thread_core)]
    *_done, secure_bits = order_all(thread, [*own, credentials.ORDER])
    signals.restore_pending(thread, thread_core)
    credentials.restore(thread, thread_core, secure_bits)
    if death_signal:
        threads.restore_death_signal(thread, core.thread_core)


def finish_process(leader: Tracee, core: Any, mm: Any) -> None:
    """Set what the credentials of all threads must come before, then start the timers. Raises RestoreError."""
    attributes.restore_late(leader, core.tc, mm)
    timers.arm(leader, core.tc)


def restore_registers(thread: Tracee, core: Any) -> None:
    """Give THREAD its registers and its blocked signals: nothing may run in it after that. Raises RestoreError, OSError."""
    threads.restore_section(thread, core)
    registers.restore(thread, core)
    signals.restore_mask(thread, core.tc.blk_sigset if core.HasField("tc") else core.thread_core.blk_sigset)


def stop_signal(core: Any) -> int:
    """Return the signal that keeps the process stopped once it is restored, or 0 for one that is to run."""
    if core.tc.task_state != TASK_STOPPED:
        return 0
    return int(core.tc.stop_signo) or signal.SIGSTOP
