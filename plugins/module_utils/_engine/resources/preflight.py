# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a task's state cannot be carried, told from /proc alone, while the task runs."""

from __future__ import annotations

import os
from typing import Iterator, List

from ..errors import Obstacle
from ..kernel import procfs
from ..kernel.kcmp import KCMP_SIGHAND, KCMP_VM, kcmp
from . import credentials, scheduling, seccomp, timers

_EI_CLASS, _ELFCLASS64 = 4, 2  # elf(5)
_NAMESPACE_NAMES = {"net": "network", "ipc": "IPC", "pid": "PID"}
_CARRIED = ("mnt", "uts")
"""The namespaces that a tree may have for its own."""
_SHARED = {"memory": KCMP_VM, "signal handlers": KCMP_SIGHAND}


def obstacles(pid: int) -> List[Obstacle]:
    """Return all that stands in the way of dumping the tasks and threads of PID. An ended process has none."""
    try:
        return list(_process(pid))
    except (FileNotFoundError, ProcessLookupError):
        return []


def _process(pid: int) -> Iterator[Obstacle]:
    if not procfs.lives(pid):
        return
    if procfs.stat(pid).state in "ZX":
        yield Obstacle(pid, "state", "its first thread has ended and others go on", "end it, or dump a service that does not do that")
        return
    yield from _namespaces(pid)
    yield from _shared_with_parent(pid)
    yield from _image(pid)
    yield from timers.obstacles(pid)
    for tid in procfs.threads(pid):
        yield from _thread(pid, tid)


def _thread(pid: int, tid: int) -> Iterator[Obstacle]:
    status = procfs.status(pid, tid)
    yield from seccomp.obstacles(pid, tid)
    if "shstk" in status.get("x86_Thread_features", "").split():
        remedy = "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"
        yield Obstacle(pid, f"thread {tid}", "it has a user shadow stack", remedy)
    tracer = status.get("TracerPid", "0")
    if tracer != "0":
        yield Obstacle(pid, f"thread {tid}", f"it is traced by process {tracer}", "end that debugger first")
    yield from scheduling.obstacles(pid, tid)
    yield from credentials.obstacles(pid, tid)


def _shared_with_parent(pid: int) -> Iterator[Obstacle]:
    """Yield what PID, a process and no thread, has in common with its parent: vfork(2), or clone(2) with such flags."""
    parent = procfs.stat(pid).ppid
    for what, kind in _SHARED.items():
        if parent and _same(pid, parent, kind):
            remedy = "wait until it executes its program or ends (vfork), then dump it"
            yield Obstacle(pid, what, f"it shares that with its parent {parent}", remedy)


def _same(pid: int, parent: int, kind: int) -> bool:
    try:
        return kcmp(pid, parent, kind) == 0
    except PermissionError:  # a parent that we may not look into, such as the first process of a container, is no vfork's
        return False


def _namespaces(pid: int) -> Iterator[Obstacle]:
    for name in sorted(os.listdir("/proc/self/ns")):
        if name not in _CARRIED and os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
            kind = _NAMESPACE_NAMES.get(name, name)
            yield Obstacle(pid, f"{kind} namespace", "it is not that of the engine", "run the engine inside it (nsenter)")


def _image(pid: int) -> Iterator[Obstacle]:
    with open(f"/proc/{pid}/exe", "rb") as program:
        head = program.read(_EI_CLASS + 1)
    if head[:4] == b"\x7fELF" and head[_EI_CLASS] != _ELFCLASS64:
        yield Obstacle(pid, "program", "it is a 32-bit program", "use its 64-bit build")
