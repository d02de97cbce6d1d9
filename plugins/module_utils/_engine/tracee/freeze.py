# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stopping a whole tree of processes, all threads, and letting it go as it was."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Dict, List, Optional, Set, Tuple

from ..errors import EngineError, FreezeError, TargetError
from ..kernel import procfs, ptrace
from ..kernel.kcmp import KCMP_VM, kcmp
from .rseq import leave_critical_section
from .tracee import Tracee
from .vdso import leave_vdso, places


@dataclass(frozen=True)
class Task:
    """A stopped process: its threads, the leader first."""

    pid: int
    threads: Tuple[Tracee, ...]
    stop_signal: int
    """The signal that had stopped it before we came, or 0."""

    @property
    def leader(self) -> Tracee:
        return self.threads[0]

    def release_scratch(self) -> None:
        """Unmap what was mapped for batches."""
        self.leader.close_scratch()


_STEP, _VFORK_TIME = 0.001, 0.02
"""Seconds."""


class _Waiting(Exception):
    """A process cannot stop before another runs on that we have stopped."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(str(error))
        self.error = error


class FrozenTree:
    """A tree of processes under our hand. Leaving the context lets it go on, unless it was ended meanwhile."""

    def __init__(self, root: int, timeout: float) -> None:
        self.root = root
        self._timeout = timeout
        self._tracees: Dict[int, Tracee] = {}
        self._pending: List[Tracee] = []
        """Seized, and not stopped yet."""
        self._stop_signals: Dict[int, int] = {}
        self._waiting = ptrace.Waiting()
        self.tasks: Tuple[Task, ...] = ()
        """Parents before their children."""
        self.zombies: Tuple[int, ...] = ()
        """The processes of the tree that have ended and were not waited for."""

    def __enter__(self) -> FrozenTree:
        self._waiting.__enter__()
        try:
            self._freeze()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.thaw()
        self._waiting.__exit__()

    @property
    def pids(self) -> Tuple[int, ...]:
        return tuple(task.pid for task in self.tasks)

    def _freeze(self) -> None:
        """Stop every thread of every process. Where one waits for another that has stopped, let go what has, and try again."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._stop_everything(deadline)
                break
            except _Waiting as waiting:
                if time.monotonic() >= deadline:
                    raise waiting.error from waiting
                self._let_go()
                time.sleep(_STEP)  # no event tells that a child of vfork(2) is done
        pids = list(procfs.descendants(self.root))
        self.tasks = tuple(self._task(pid) for pid in pids if pid == self.root or procfs.lives(pid))
        self.zombies = tuple(pid for pid in pids if pid != self.root and not procfs.lives(pid))

    def _stop_everything(self, deadline: float) -> None:
        """Stop until a whole pass finds none that runs."""
        while True:
            self._seize_new()
            if not self._pending:
                return
            while self._pending:
                self._await_stop(self._pending[0], deadline)
                self._pending.pop(0)

    def _let_go(self) -> None:
        """Let the threads go on that have stopped, and the others as soon as they do."""
        pending, self._pending = self._pending, []
        waiting = {tracee.tid for tracee in pending}
        for tracee in [tracee for tracee in self._tracees.values() if tracee.tid not in waiting]:
            self._detach(tracee)
        deadline = time.monotonic() + self._timeout
        while pending and time.monotonic() < deadline:
            tracee = pending.pop(0)
            try:
                self._await_stop(tracee, time.monotonic() + _VFORK_TIME)
            except _Waiting:
                pending.append(tracee)
                continue
            if tracee.tid in self._tracees:
                self._detach(tracee)
        self._pending = pending
        self._stop_signals.clear()

    def _detach(self, tracee: Tracee) -> None:
        del self._tracees[tracee.tid]
        try:
            tracee.detach()
        except ProcessLookupError:
            self._let_go_running(tracee.tid)

    def _task(self, pid: int) -> Task:
        threads = tuple(self._tracees[tid] for tid in procfs.threads(pid) if tid in self._tracees)
        if not threads or threads[0].tid != pid:
            raise TargetError(
                f"process {pid} ended, or lost its first thread, while it was being stopped; dump it again, or wait until it is reaped"
            )
        for thread in threads:
            thread.space = threads[0].space
        ranges = places(pid)
        for thread in threads:
            leave_vdso(thread, ranges)
        return Task(pid, threads, self._stop_signals.get(pid, 0))

    def _seize_new(self) -> None:
        for pid in procfs.descendants(self.root):
            for tid in self._threads(pid):
                if tid not in self._tracees:
                    tracee = self._seize(pid, tid)
                    if tracee is not None:
                        self._tracees[tid] = tracee
                        self._pending.append(tracee)

    def _threads(self, pid: int) -> List[int]:
        try:
            return procfs.threads(pid)
        except procfs.GONE as error:
            if pid == self.root:
                raise TargetError(f"process {pid} has ended; name one that runs") from error
            return []

    def _seize(self, pid: int, tid: int) -> Optional[Tracee]:
        try:
            options = _seize_without_seccomp(pid, tid)
            ptrace.interrupt(tid)
        except (ProcessLookupError, FileNotFoundError):
            return None  # it ended meanwhile
        except PermissionError as error:
            if tid != self.root and procfs.has_ended(pid, tid):
                return None
            raise TargetError(_why_not_seized(pid, tid, error)) from error
        return Tracee(pid, tid, options)

    def _await_stop(self, tracee: Tracee, deadline: float) -> None:
        while True:
            status = ptrace.wait_until(tracee.tid, min(deadline, time.monotonic() + _VFORK_TIME))
            if status is None:
                if _waits_for_child(tracee.pid) or time.monotonic() >= deadline:
                    raise _Waiting(self._not_stopped(tracee))
                continue
            if not status.stopped:
                del self._tracees[tracee.tid]
                return
            if status.event == ptrace.PTRACE_EVENT_STOP:
                if status.signal != signal.SIGTRAP:
                    self._stop_signals[tracee.pid] = status.signal
                else:
                    _repeat_interrupted(tracee)
                leave_critical_section(tracee)
                return
            ptrace.cont(tracee.tid, status.signal)  # a signal came first: it is delivered, the stop comes after it

    def _not_stopped(self, tracee: Tracee) -> FreezeError:
        return FreezeError(
            f"thread {tracee.tid} of process {tracee.pid} did not stop within {self._timeout:g} s "
            f"(state {procfs.stat(tracee.tid).state}); the tree runs on; give a longer timeout, or find out what it waits for"
        )

    def thaw(self) -> None:
        """Let every thread go on as it was, with nothing of ours left in its memory."""
        if self._tracees:
            for task in self.tasks:
                _release(task)
        self._let_go()
        for tracee in self._pending:
            self._let_go_running(tracee.tid)
        self._pending, self._tracees = [], {}

    def _let_go_running(self, tid: int) -> None:
        """Detach a thread that is not stopped: one that did not stop in time, or was killed."""
        try:
            os.waitpid(tid, os.WNOHANG | ptrace.WALL)
            ptrace.detach(tid)
        except (ProcessLookupError, ChildProcessError):
            return  # gone, or it still runs: the kernel lets it go when we exit

    def stop_all(self) -> None:
        """Let every thread go, but leave the processes stopped (SIGSTOP), to be continued by SIGCONT."""
        for task in self.tasks:
            os.kill(task.pid, signal.SIGSTOP)
        self.thaw()

    def kill(self) -> None:
        """End all processes and wait until they are gone."""
        tracees, self._tracees = list(self._tracees.values()), {}
        for task in self.tasks:
            os.kill(task.pid, signal.SIGKILL)
        leaders: Set[int] = {task.pid for task in self.tasks}
        ordered = [t for t in tracees if t.tid not in leaders] + [t for t in reversed(tracees) if t.tid in leaders]
        for tracee in ordered:
            while ptrace.wait(tracee.tid).stopped:
                ptrace.cont(tracee.tid)


def _seize_without_seccomp(pid: int, tid: int) -> int:
    """Seize a thread with its seccomp suspended, which takes CAP_SYS_ADMIN; one that has none also without. Returns the options."""
    options = ptrace.O_SYSGOOD | ptrace.PTRACE_O_SUSPEND_SECCOMP
    try:
        ptrace.seize(tid, options)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL) or procfs.status(pid, tid).get("Seccomp", "0") != "0":
            raise
        options = ptrace.O_SYSGOOD
        ptrace.seize(tid, options)
    return options


def _waits_for_child(pid: int) -> bool:
    """Tell whether PID waits for a child that has its memory until it executes a program: vfork(2)."""
    try:
        return any(kcmp(pid, child, KCMP_VM) == 0 for child in procfs.children(pid))
    except procfs.GONE:
        return False


def _release(task: Task) -> None:
    """Leave nothing of ours in the memory of TASK; one that was killed meanwhile has none."""
    try:
        task.release_scratch()
    except (TargetError, ProcessLookupError):
        return


def _repeat_interrupted(tracee: Tracee) -> None:
    try:
        tracee.repeat_interrupted()
    except procfs.GONE:
        return  # it was killed; who needs it will say so


def _why_not_seized(pid: int, tid: int, error: OSError) -> str:
    if procfs.has_ended(pid, tid):
        return f"process {pid} has ended, or is a zombie; name one that runs"
    with suppress(*procfs.GONE):
        tracer = procfs.status(pid, tid).get("TracerPid", "0")
        if tracer != "0":
            return f"process {pid} is traced by process {tracer} already; end that tracer (a debugger or strace) first"
    return f"process {pid} cannot be traced ({error.strerror}); run as root, or with CAP_SYS_PTRACE"
