# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Zombies: children that have ended and that their parent has not waited for yet (wait(2)).

CRIU images: a core-PID with nothing but task_core_entry.{task_state,exit_code,comm}. Its owner, which waitid(2) tells, has no
field there: it is in thread_core_entry.creds, as that of any thread. Restored is a process that ends in the same way.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any, List

from ..errors import Obstacle
from ..images.schema import message
from ..kernel import procfs
from ..kernel.prctl import PR_SET_DUMPABLE, PR_SET_NAME
from ..tracee.calls import Call
from ..tracee.stubs import Stubs
from . import attributes, credentials
from .batch import order
from .threads import printable

TASK_DEAD = 2
"""task_core_entry.task_state (compel's task-state.h)."""
_SIGNAL_BITS, _CORE_DUMPED = 0x7F, 0x80  # wait status: wait(2), WCOREDUMP
_HARMLESS = frozenset(getattr(signal, f"SIG{name}") for name in ("CHLD", "CONT", "URG", "WINCH", "STOP", "TSTP", "TTIN", "TTOU"))
"""Signals that end nobody (signal(7))."""


@dataclass(frozen=True)
class Zombie:
    """What is left of a process that has ended."""

    pid: int
    comm: str
    status: int
    """As wait(2) returns it."""
    exit_signal: int
    credentials: credentials.Credentials


def read(pid: int) -> Zombie:
    """Return what is left of PID, a zombie. Raises OSError."""
    stat = procfs.stat(pid)
    return Zombie(pid, stat.comm, stat.exit_code, attributes.exit_signal(pid), credentials.decode_status(procfs.status(pid)))


def image(zombie: Zombie) -> Any:
    """Return the core_entry of ZOMBIE."""
    core = message("core_entry")()
    core.mtype, tc = core.X86_64, core.tc
    tc.task_state, tc.exit_code, tc.comm = TASK_DEAD, zombie.status, printable(zombie.comm)
    tc.stillframe.exit_signal = zombie.exit_signal
    tc.personality = tc.flags = tc.blk_sigset = 0
    core.thread_core.futex_rla = core.thread_core.futex_rla_len = 0
    credentials.fill(core.thread_core, zombie.credentials)
    return core


def is_dead(core: Any) -> bool:
    """Tell whether CORE, a core_entry, is that of a zombie."""
    return bool(core.HasField("tc") and core.tc.task_state == TASK_DEAD)


def check(pid: int, core: Any) -> List[Obstacle]:
    """Return what is wrong with the wait status of the zombie PID: a signal that ends nobody."""
    if core.tc.exit_code & _SIGNAL_BITS not in _HARMLESS:
        return []
    return [Obstacle(pid, "exit status", f"no process ends with status {core.tc.exit_code:#x}", "use another copy of the dump")]


def warnings(pid: int, core: Any) -> List[str]:
    """Return what of the zombie PID is not restored."""
    if not core.tc.exit_code & _CORE_DUMPED:
        return []
    return [f"process {pid}, a zombie, had dumped core; its parent is told the signal, but not that"]


def restore(stubs: Stubs, pid: int, core: Any, parent: int) -> None:
    """End the stub PID as CORE tells, its process group and session being made; PARENT gets no signal. Raises RestoreError."""
    stub, status = stubs.leaders[pid], core.tc.exit_code
    calls = [Call("prctl", (PR_SET_NAME, core.tc.comm.encode("utf-8", "surrogateescape") + b"\0", 0, 0, 0))]
    order(stub, "the name", calls)
    if core.thread_core.HasField("creds"):
        credentials.restore(stub, core.thread_core, stub.batch(credentials.CALLS))
    order(stub, "dumpable", [Call("prctl", (PR_SET_DUMPABLE, 0, 0, 0, 0))])  # it must not dump core again
    stubs.end(pid, status >> 8 & 0xFF, status & _SIGNAL_BITS)
    stubs.take_exit_signal(parent, attributes.restored_exit_signal(core))
