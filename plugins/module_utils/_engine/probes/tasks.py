# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes: stopping a task, asking it what /proc does not tell, and making one with a chosen PID."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from contextlib import contextmanager
from collections.abc import Iterator

from ..errors import KernelError
from ..kernel import kcmp as kernel_kcmp
from ..kernel import procfs, ptrace
from ..kernel.pidfd import ProcessFiles
from ..kernel.syscall import syscall
from .specimen import Specimen

_PR_SET_MM, _PR_SET_MM_MAP_SIZE = 35, 15  # include/uapi/linux/prctl.h
_PR_TIMER_CREATE_RESTORE_IDS, _PR_TIMER_CREATE_RESTORE_IDS_GET = 77, 2  # Linux 6.16
_ARCH_MAP_VDSO_64 = 0x2003  # arch/x86/include/uapi/asm/prctl.h


@contextmanager
def _stopped() -> Iterator[int]:
    """Give the PID of a process that is seized and stopped."""
    with Specimen() as specimen:
        ptrace.seize(specimen.pid)
        ptrace.interrupt(specimen.pid)
        ptrace.wait(specimen.pid)
        yield specimen.pid


def ptrace_seize() -> None:
    """Seize and stop a process, and read its registers, signal mask and pending signals."""
    with _stopped() as pid:
        ptrace.get_regset(pid, ptrace.NT_PRSTATUS)
        if platform.machine() == "x86_64":
            ptrace.get_regset(pid, ptrace.NT_X86_XSTATE)
        ptrace.get_sigmask(pid)
        ptrace.peek_siginfo(pid, shared=True)


def get_rseq_conf() -> None:
    """Ask a task where its restartable-sequence area is (PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13)."""
    with _stopped() as pid:
        ptrace.rseq_configuration(pid)


def seccomp_suspend() -> None:
    """Suspend the seccomp filters of a tracee (PTRACE_O_SUSPEND_SECCOMP)."""
    with _stopped() as pid:
        ptrace.set_options(pid, ptrace.PTRACE_O_SUSPEND_SECCOMP)


def clone3_set_tid() -> None:
    """Make a process with a PID that was just free (clone3 with set_tid, Linux 5.5, CAP_CHECKPOINT_RESTORE)."""
    with Specimen() as specimen:
        wanted = specimen.pid
    chosen = (ctypes.c_int * 1)(wanted)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    fields = struct.pack("<11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(chosen), 1, 0)
    pid = syscall("clone3", ctypes.create_string_buffer(fields, len(fields)), len(fields))
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    if pid != wanted:
        raise KernelError(f"a process was to get PID {wanted} and got {pid}")


def pidfd_getfd() -> None:
    """Copy a descriptor of another process (pidfd_getfd(2), Linux 5.6)."""
    with Specimen() as specimen, ProcessFiles(specimen.pid) as files, open(os.devnull, "rb") as null:
        fd = _shared_descriptor(specimen.pid, null.fileno())
        os.close(files.copy(fd))


def _shared_descriptor(pid: int, fallback: int) -> int:
    """Return a descriptor that PID has open."""
    return min((int(name) for name in os.listdir(f"/proc/{pid}/fd")), default=fallback)


def kcmp() -> None:
    """Tell two processes' descriptor tables apart (CONFIG_KCMP)."""
    with Specimen() as specimen:
        if not kernel_kcmp.kcmp(os.getpid(), specimen.pid, kernel_kcmp.KCMP_FILES):
            raise KernelError("kcmp takes two descriptor tables for one")


def proc_children() -> None:
    """List the children of a process (CONFIG_PROC_CHILDREN)."""
    with Specimen() as specimen:
        if specimen.pid not in procfs.children(os.getpid()):
            raise KernelError("/proc/PID/task/TID/children does not list a child")


def ns_pid() -> None:
    """Read the PID of a task in its own PID namespace (NSpid in /proc/PID/status)."""
    if "NSpid" not in procfs.status(os.getpid()):
        raise KernelError("/proc/PID/status has no NSpid line")


def prctl_mm_map() -> None:
    """Ask for the size of what PR_SET_MM_MAP takes (CONFIG_CHECKPOINT_RESTORE)."""
    size = ctypes.create_string_buffer(4)
    syscall("prctl", _PR_SET_MM, _PR_SET_MM_MAP_SIZE, size, 0, 0)


def timer_cr_ids() -> None:
    """Ask whether POSIX timers are made with chosen ids (PR_TIMER_CREATE_RESTORE_IDS, Linux 6.16)."""
    syscall("prctl", _PR_TIMER_CREATE_RESTORE_IDS, _PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0)


def can_map_vdso() -> None:
    """Ask for the vDSO to be mapped, which a kernel that can do so refuses as it is there already."""
    if platform.machine() != "x86_64":
        raise KernelError("there is no call that maps the vDSO on this architecture")
    try:
        syscall("arch_prctl", _ARCH_MAP_VDSO_64, 0)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
