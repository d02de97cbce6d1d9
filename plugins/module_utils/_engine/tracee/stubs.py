# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Stubs: the tasks of a tree to be, created with their own PIDs and stopped before they have run a single instruction."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
from typing import Dict, List, Sequence

from ..errors import RestoreError
from ..kernel import ptrace
from ..kernel.clone import CLONE_FILES, CLONE_FS, CLONE_PARENT, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM
from ..kernel.syscall import syscall
from ..kernel.urgency import calm, hasten
from .calls import Call
from .tracee import CLONE_ARGS_SET_TID, Tracee, clone_args

_THREAD = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
_OPTIONS = ptrace.O_SYSGOOD | ptrace.PTRACE_O_EXITKILL
_SIGNAL_SET_SIZE = 8  # bytes of a sigset_t of the kernel's
_SIG_DFL = bytes(32)  # struct kernel_sigaction
_PROGRAM = "/proc/self/exe"
"""What a stub executes, to get an address space without a trace of ours; it never runs."""


class Stubs:
    """The stubs of one restore. A context manager: unless they were let go, they are all killed when it is left, or when we die."""

    def __init__(self) -> None:
        self.leaders: Dict[int, Tracee] = {}
        self.threads: Dict[int, List[Tracee]] = {}
        """By process, the leader first."""
        self._hurried = False

    def __enter__(self) -> Stubs:
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in self.leaders:
            os.kill(pid, signal.SIGKILL)
        for threads in reversed(list(self.threads.values())):
            for thread in threads[1:] + threads[:1]:
                while ptrace.wait(thread.tid).stopped:
                    ptrace.cont(thread.tid)
        self.leaders.clear()
        self.threads.clear()

    def create_root(self, pid: int, inherited: Sequence[int], sibling: bool = False) -> Tracee:
        """Create process PID with copies of our descriptors INHERITED and no others: a child of ours, or as our SIBLING one of our parent.

        Raises RestoreError.
        """
        waits, lives = os.pipe()
        try:
            if _clone(pid, sibling) == 0:
                os.close(lives)
                os.read(waits, 1)  # we are the child, a copy of this very program: nothing of it may run
                os._exit(1)  # and our maker has died before it had us under its hand
            ptrace.seize(pid, _OPTIONS)
            ptrace.interrupt(pid)
            ptrace.wait(pid)
        except OSError as error:
            raise _not_created(pid, error) from error
        finally:
            os.close(waits)
            os.close(lives)
        root = self._register(Tracee(pid, pid, _OPTIONS))
        root.batch([Call("fcntl", (fd, fcntl.F_SETFD, 0)) for fd in inherited])
        root.execute(_PROGRAM)
        return root

    def create_child(self, parent: Tracee, pid: int, shared: int = 0, exit_signal: int = signal.SIGCHLD) -> Tracee:
        """Create process PID as a child of PARENT, which is sent EXIT_SIGNAL when it ends.

        SHARED: what they share (CLONE_FILES, CLONE_FS). Raises RestoreError.
        """
        try:
            return self._register(parent.clone3(shared, exit_signal, pid))
        except OSError as error:
            raise _not_created(pid, error) from error

    def create_sibling(self, maker: Tracee, pid: int) -> Tracee:
        """Create process PID by MAKER, as a child of its parent and with its exit signal (clone(2), CLONE_PARENT). Raises RestoreError."""
        try:
            return self._register(maker.clone3(CLONE_PARENT, 0, pid))
        except OSError as error:
            raise _not_created(pid, error) from error

    def end(self, pid: int, code: int, signo: int = 0) -> None:
        """End process PID by exit(2) with CODE, or by SIGNO where that is given: its parent is sent a signal and has a zombie."""
        leader = self.leaders.pop(pid)
        del self.threads[pid]
        if not signo:
            leader.exit(code)
            return
        if signo == signal.SIGKILL:
            os.kill(pid, signo)
        else:
            leader.call("rt_sigaction", signo, _SIG_DFL, 0, _SIGNAL_SET_SIZE)
            ptrace.set_sigmask(pid, 0)
            os.kill(pid, signo)
            ptrace.cont(pid)
        while (status := ptrace.wait(pid)).stopped:
            ptrace.cont(pid, status.signal if status.signal == signo and not status.event else 0)

    def end_helper(self, pid: int, parent: int) -> None:
        """End process PID, of which no trace is left in its PARENT, which may be ourselves."""
        self.end(pid, 0)
        if parent in self.leaders:
            self.leaders[parent].call("wait4", pid, 0, ptrace.WALL, 0)
            self.take_exit_signal(parent, signal.SIGCHLD)

    def take_exit_signal(self, parent: int, signo: int) -> None:
        """Take from process PARENT the signal SIGNO that the end of a child has sent to it, if any."""
        awaited = struct.pack("<Q", 1 << signo - 1 if signo else 0)
        self.leaders[parent].batch([Call("rt_sigtimedwait", (awaited, 0, bytes(16), len(awaited)))])

    def create_thread(self, leader: Tracee, tid: int) -> Tracee:
        """Create thread TID of the process of LEADER. Raises RestoreError."""
        if self._hurried:
            calm(leader.tid)
        try:
            thread = leader.clone3(_THREAD, 0, tid)
        except OSError as error:
            raise _not_created(tid, error) from error
        self.threads[leader.pid].append(thread)
        if self._hurried:
            self.hurry()
        return thread

    def hurry(self) -> None:
        """Let the stubs run as soon as they can, until each gets its own scheduling (`resources/scheduling.py`). Raises OSError."""
        self._hurried = True
        for thread in self.all_threads():
            hasten(thread.tid)

    def _register(self, leader: Tracee) -> Tracee:
        self.leaders[leader.pid] = leader
        self.threads[leader.pid] = [leader]
        return leader

    @property
    def root(self) -> Tracee:
        """The first process of the tree, a child of ours."""
        return next(iter(self.leaders.values()))

    def all_threads(self) -> List[Tracee]:
        """Return every thread."""
        return [thread for threads in self.threads.values() for thread in threads]

    def go(self, stopped: Dict[int, int]) -> None:
        """Let all run; processes in STOPPED are left stopped, by the signal given there."""
        threads, leaders = self.all_threads(), list(self.leaders)
        self.leaders.clear()
        self.threads.clear()
        for pid in leaders:
            if pid in stopped:
                os.kill(pid, stopped[pid])
        for thread in threads:
            thread.detach()


def _clone(pid: int, sibling: bool) -> int:
    """Create process PID by clone3(2); return 0 in it. Raises OSError."""
    tid = ctypes.create_string_buffer(struct.pack("<i", pid), 4)
    # a sibling signals its end as we do ours, and may not be asked for another signal
    args = bytearray(clone_args(CLONE_PARENT, 0) if sibling else clone_args(0, signal.SIGCHLD))
    struct.pack_into("<Q", args, CLONE_ARGS_SET_TID, ctypes.addressof(tid))
    return syscall("clone3", bytes(args), len(args))


def _not_created(pid: int, error: OSError) -> RestoreError:
    return RestoreError(
        f"process or thread {pid} cannot be created ({error.strerror}); end what uses that number, or restore in a PID namespace of its own"
    )
