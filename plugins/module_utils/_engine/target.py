# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a process can be dumped at all, as far as /proc tells: asked before anything is touched."""

from __future__ import annotations

import os

from .errors import TargetError
from .kernel import procfs
from .kernel.procfs import GONE

_DEAD = "ZXx"
"""States of a process that has ended (proc_pid_stat(5))."""


def check_target(pid: int) -> tuple[int, ...]:
    """Return the processes of the tree under PID that live, parents before children.

    Raises TargetError when PID is no process, or the tree can't be dumped: the init process, a kernel thread, a zombie,
    a tree that we belong to, or a tree with a task that is being traced.
    """
    _check_exists(pid)
    _check_kind(pid)
    if pid in ancestors(os.getpid()):
        raise TargetError(f"process {pid} is the one that would do the dump, or an ancestor of it; start the dump from outside its tree")
    tree = tuple(member for member in procfs.descendants(pid) if procfs.lives(member))
    for member in tree:
        _check_untraced(member)
    return tree


def _check_exists(pid: int) -> None:
    """Raise TargetError unless PID is a process that runs."""
    if pid <= 0:
        raise TargetError(f"{pid} is not a PID; name a process by its PID, a number above 0")
    try:
        group = procfs.thread_group(pid)
    except (*GONE, OverflowError) as error:
        raise TargetError(f"process {pid} does not exist; name one that runs") from error
    if group != pid:
        raise TargetError(f"{pid} is a thread of process {group}, not a process; name {group}")


def _check_kind(pid: int) -> None:
    """Raise TargetError unless PID is a process that lives, in user space, and is not the first of the machine."""
    if pid == 1:
        raise TargetError("process 1 is the init process, which everything depends on; name the service itself")
    try:
        stat = procfs.stat(pid)
    except GONE as error:
        raise TargetError(f"process {pid} has ended; name one that runs") from error
    if stat.flags & procfs.PF_KTHREAD:
        raise TargetError(f"process {pid} ({stat.comm}) is a kernel thread; name a process of user space")
    if stat.state in _DEAD and stat.threads > 1:
        raise TargetError(f"the first thread of process {pid} ({stat.comm}) has ended and others go on; name a process that is whole")
    if stat.state in _DEAD:
        raise TargetError(
            f"process {pid} ({stat.comm}) is a zombie, it has ended; let its parent {stat.ppid} wait for it, name one that runs"
        )


def _check_untraced(pid: int) -> None:
    """Raise TargetError when a thread of PID has a tracer. A process that ends meanwhile is no longer ours to judge."""
    try:
        for tid in procfs.threads(pid):
            tracer = int(procfs.status(pid, tid)["TracerPid"])
            if tracer:
                comm = procfs.stat(tracer).comm
                raise TargetError(f"process {pid} is already traced, by process {tracer} ({comm}); end the tracer first")
    except GONE:
        return


def ancestors(pid: int) -> list[int]:
    """Return PID, its parent, the parent's parent and so on, as far as our PID namespace sees them."""
    chain = []
    while pid:
        chain.append(pid)
        try:
            pid = procfs.stat(pid).ppid
        except GONE:
            break
    return chain
