# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Attributes of a process that are single values of prctl(2), /proc and the like.

CRIU images: task_core_entry.{personality,flags,loginuid,oom_score_adj,child_subreaper,membarrier_registration_mask},
mm_entry.{dumpable,thp_disabled}; what CRIU has no field for is in task_core_entry.stillframe.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence

from ..errors import Obstacle
from ..kernel import procfs
from ..kernel.prctl import (
    ARCH_GET_XCOMP_PERM,
    ARCH_REQ_XCOMP_PERM,
    PR_GET_CHILD_SUBREAPER,
    PR_GET_DUMPABLE,
    PR_GET_MDWE,
    PR_GET_MEMORY_MERGE,
    PR_GET_THP_DISABLE,
    PR_GET_TSC,
    PR_MCE_KILL,
    PR_MCE_KILL_DEFAULT,
    PR_MCE_KILL_GET,
    PR_MCE_KILL_SET,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_MDWE,
    PR_SET_MEMORY_MERGE,
    PR_SET_THP_DISABLE,
    PR_SET_TSC,
    PR_TSC_ENABLE,
)
from ..tracee.calls import Call, Out, Reply
from ..tracee.tracee import Tracee
from .batch import order, refusal
from .credentials import own_capabilities
from .rlimits import CAP_SYS_RESOURCE

_MEMBARRIER_CMD_GET_REGISTRATIONS = 1 << 9  # include/uapi/linux/membarrier.h, Linux 6.3
_NO_LOGIN = (1 << 32) - 1
_DYNAMIC_XFEATURES = (18,)  # AMX tile data: the one that a process must ask for (arch/x86/kernel/fpu/xstate.c)
_EINVAL, _ENOSYS = 22, 38


@dataclass(frozen=True)
class Attributes:
    """Single-valued attributes of one process."""

    comm: str
    flags: int
    """PF_… of /proc/PID/stat, for the reader of an image only."""
    exit_signal: int
    """What its parent gets when it ends; SIGCHLD for all but the odd clone(2)."""
    personality: int
    oom_score_adj: int
    login_uid: Optional[int]
    """The audit login, 2^32-1 when unset, None when the kernel has no such thing."""
    child_subreaper: bool
    membarrier: int
    """The MEMBARRIER_CMD_REGISTER_… that were made, as a mask."""
    dumpable: int
    thp_disable: int
    """0, or 1 with flags (PR_GET_THP_DISABLE, Linux 6.18)."""
    mce_kill: int
    tsc: int
    memory_merge: int
    mdwe: int
    """PR_MDWE_…: which no task can undo."""
    xcomp_permissions: int
    """The dynamic XSAVE features that the process asked for (ARCH_GET_XCOMP_PERM)."""
    coredump_filter: int
    lock_future: int
    """What of the memory that the process will map is locked: MCL_… of mlockall(2)."""


CALLS = (
    Call("prctl", (PR_GET_CHILD_SUBREAPER, Out(4), 0, 0, 0)),
    Call("membarrier", (_MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0)),
    Call("prctl", (PR_GET_DUMPABLE, 0, 0, 0, 0)),
    Call("prctl", (PR_GET_THP_DISABLE, 0, 0, 0, 0)),
    Call("prctl", (PR_MCE_KILL_GET, 0, 0, 0, 0)),
    Call("prctl", (PR_GET_TSC, Out(4), 0, 0, 0)),
    Call("prctl", (PR_GET_MEMORY_MERGE, 0, 0, 0, 0)),
    Call("prctl", (PR_GET_MDWE, 0, 0, 0, 0)),
    Call("arch_prctl", (ARCH_GET_XCOMP_PERM, Out(8))),
)


def of_process(pid: int, replies: Sequence[Reply], lock_future: int) -> Attributes:
    """Return the attributes of PID; REPLIES are those to CALLS, LOCK_FUTURE as `memory/locked` has it. Raises OSError."""
    subreaper, membarrier, dumpable, thp, mce_kill, tsc, merge, mdwe, xcomp = replies
    stat = procfs.stat(pid)
    return Attributes(
        comm=stat.comm,
        flags=stat.flags,
        exit_signal=exit_signal(pid),
        personality=int(procfs.text(f"/proc/{pid}/personality"), 16),
        oom_score_adj=int(procfs.text(f"/proc/{pid}/oom_score_adj")),
        login_uid=login_uid(pid),
        child_subreaper=bool(_out(subreaper)),
        membarrier=_known(membarrier),
        dumpable=dumpable.check(),
        thp_disable=_known(thp),
        mce_kill=_known(mce_kill, PR_MCE_KILL_DEFAULT),
        tsc=_out(tsc),
        memory_merge=_known(merge),
        mdwe=_known(mdwe),
        xcomp_permissions=_out(xcomp) if xcomp.value == 0 else 0,
        coredump_filter=int(procfs.text(f"/proc/{pid}/coredump_filter") or "0", 16),
        lock_future=lock_future,
    )


def _known(reply: Reply, default: int = 0) -> int:
    """Return the result of a call, or DEFAULT where the kernel does not know it."""
    return default if reply.value in (-_EINVAL, -_ENOSYS) else reply.check()


def _out(reply: Reply) -> int:
    reply.check()
    return int.from_bytes(reply.outs[0], "little")


def exit_signal(pid: int) -> int:
    """Return the signal that PID sends to its parent when it ends (field 38 of /proc/PID/stat)."""
    return int(procfs.text(f"/proc/{pid}/stat").rpartition(")")[2].split()[38 - 3])


def restored_exit_signal(core: Any) -> int:
    """Return the signal that the parent of the process of CORE, a core_entry, is to get when it ends; CRIU knows SIGCHLD only."""
    extra = core.tc.stillframe
    return int(extra.exit_signal) if extra.HasField("exit_signal") else signal.SIGCHLD


def login_uid(pid: int) -> Optional[int]:
    """Return the audit login of PID, or None where the kernel keeps none."""
    path = f"/proc/{pid}/loginuid"
    return int(procfs.text(path)) if os.path.exists(path) else None


def fill(tc: Any, own: Attributes) -> None:
    """Put the attributes OWN into TC, a task_core_entry."""
    tc.personality, tc.flags, tc.oom_score_adj, tc.child_subreaper = own.personality, own.flags, own.oom_score_adj, own.child_subreaper
    if own.login_uid is not None:
        tc.loginuid = own.login_uid
    if own.membarrier:
        tc.membarrier_registration_mask = own.membarrier
    extra = tc.stillframe
    extra.coredump_filter, extra.exit_signal = own.coredump_filter, own.exit_signal
    extra.thp_disable, extra.mce_kill, extra.tsc = own.thp_disable, own.mce_kill, own.tsc
    extra.memory_merge, extra.mdwe, extra.xcomp_permissions = own.memory_merge, own.mdwe, own.xcomp_permissions
    if own.lock_future:
        extra.lock_future = own.lock_future


def fill_memory(mm: Any, own: Attributes) -> None:
    """Put what CRIU keeps with the memory into MM, an mm_entry."""
    mm.dumpable, mm.thp_disabled = own.dumpable, bool(own.thp_disable)


def check(pid: int, tc: Any) -> List[Obstacle]:
    """Return the attributes in TC that this process may not set."""
    own = int(procfs.text("/proc/self/oom_score_adj"))
    if tc.oom_score_adj >= own or own_capabilities().effective >> CAP_SYS_RESOURCE & 1:
        return []
    why = f"it is {tc.oom_score_adj}, ours is {own}, and CAP_SYS_RESOURCE is missing to lower it"
    return [Obstacle(pid, "oom_score_adj", why, f"start the restore with oom_score_adj {tc.oom_score_adj}, or with CAP_SYS_RESOURCE")]


def restore_page_size(leader: Tracee, tc: Any, mm: Any) -> None:
    """Set what decides the size of the pages that memory is filled with. Raises RestoreError."""
    thp = tc.stillframe.thp_disable or int(mm.thp_disabled)
    # 0 too: it may have another from the one that forked it
    order(leader, "attributes", [Call("prctl", (PR_SET_THP_DISABLE, int(bool(thp)), thp & ~1, 0, 0))])


def restore_early(leader: Tracee, tc: Any) -> None:
    """Set the attributes that do not hinder what comes after them. Raises RestoreError."""
    extra = tc.stillframe
    calls = [Call("personality", (_personality(tc),)), Call("prctl", (PR_SET_CHILD_SUBREAPER, int(tc.child_subreaper), 0, 0, 0))]
    calls += [Call("membarrier", (1 << bit, 0, 0)) for bit in range(32) if tc.membarrier_registration_mask >> bit & 1]
    if extra.HasField("mce_kill") and extra.mce_kill != PR_MCE_KILL_DEFAULT:
        calls.append(Call("prctl", (PR_MCE_KILL, PR_MCE_KILL_SET, extra.mce_kill, 0, 0)))
    if extra.memory_merge:
        calls.append(Call("prctl", (PR_SET_MEMORY_MERGE, 1, 0, 0, 0)))
    calls += [Call("arch_prctl", (ARCH_REQ_XCOMP_PERM, bit)) for bit in _DYNAMIC_XFEATURES if extra.xcomp_permissions >> bit & 1]
    order(leader, "attributes", calls)
    _write(leader, "oom_score_adj", str(tc.oom_score_adj))
    if extra.HasField("coredump_filter"):
        _write(leader, "coredump_filter", hex(extra.coredump_filter))
    if tc.HasField("loginuid") and login_uid(leader.pid) not in (None, tc.loginuid):
        _restore_login(leader, tc.loginuid)


def _personality(tc: Any) -> int:
    """Return the personality in TC. CRIU up to 4.2 reads the hexadecimal digits of /proc/PID/personality as decimal ones."""
    return int(tc.personality) if tc.HasField("stillframe") else int(str(tc.personality), 16)


def _write(leader: Tracee, name: str, value: str) -> None:
    path = f"/proc/{leader.pid}/{name}"
    try:
        with open(path, "r+", encoding="ascii") as file:
            if int(file.read(), 0 if name == "oom_score_adj" else 16) != int(value, 0):
                file.write(value)
    except OSError as error:
        raise refusal(leader, name, error) from error


def _restore_login(leader: Tracee, login: int) -> None:
    """Set the audit login: only the task itself may write it (fs/proc/base.c)."""
    value = str(login if login != _NO_LOGIN else -1).encode("ascii")
    (opened,) = order(leader, "audit login", [Call("openat", (-100, b"/proc/self/loginuid\0", os.O_WRONLY, 0))])
    written, _closed = leader.batch([Call("write", (opened.value, value, len(value))), Call("close", (opened.value,))])
    try:
        written.check()
    except OSError as error:
        raise refusal(leader, f"audit login {login}", error) from error


def restore_late(leader: Tracee, tc: Any, mm: Any) -> None:
    """Set the attributes that a change of credentials resets, or that bind us too. Raises RestoreError."""
    extra = tc.stillframe
    # 2 (root only) is the kernel's to give: suid_dumpable. The safe one of the two that can be asked for is 0.
    dumpable = mm.dumpable if mm.dumpable in (0, 1) else 0
    calls = [Call("prctl", (PR_SET_DUMPABLE, dumpable, 0, 0, 0))] if mm.HasField("dumpable") and not _already(leader, mm) else []
    if extra.mdwe:
        calls.append(Call("prctl", (PR_SET_MDWE, extra.mdwe, 0, 0, 0)))
    if extra.HasField("tsc") and extra.tsc != PR_TSC_ENABLE:
        calls.append(Call("prctl", (PR_SET_TSC, extra.tsc, 0, 0, 0)))
    order(leader, "attributes", calls)


def _already(leader: Tracee, mm: Any) -> bool:
    return bool(leader.call("prctl", PR_GET_DUMPABLE, 0, 0, 0, 0) == mm.dumpable)
