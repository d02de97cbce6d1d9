# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Credentials of a thread (credentials(7), capabilities(7)): thread_core_entry.creds. Every thread has its own."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from ..errors import Obstacle
from ..kernel import procfs
from ..kernel.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_GET_SECUREBITS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECUREBITS,
)
from ..tracee.calls import Call, Reply
from ..tracee.tracee import Tracee
from .batch import Order, order

# include/uapi/linux/capability.h, by number
_CAPABILITY_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN "
    "NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
).split()
_CAPABILITY_VERSION_3 = 0x20080522
_WORDS = 2  # _LINUX_CAPABILITY_U32S_3
_SECBIT_NO_SETUID_FIXUP = 1 << 2  # include/uapi/linux/securebits.h
_CAP_LAST_CAP = "/proc/sys/kernel/cap_last_cap"
_UNCONFINED = ("", "unconfined")
_MODE = " ("
"""What AppArmor puts behind the name of a profile, as in "name (enforce)", and images have not."""


class Ids(NamedTuple):
    """The user or group ids of a thread."""

    real: int
    effective: int
    saved: int
    filesystem: int


class Capabilities(NamedTuple):
    """Five sets of capabilities: bit n is capability n."""

    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int


@dataclass(frozen=True)
class Credentials:
    """The credentials of one thread."""

    uids: Ids
    gids: Ids
    groups: Tuple[int, ...]
    capabilities: Capabilities
    secure_bits: int
    no_new_privs: bool


CALLS = (Call("prctl", (PR_GET_SECUREBITS, 0, 0, 0, 0)),)
_SETS = (("cap_inh", "CapInh"), ("cap_prm", "CapPrm"), ("cap_eff", "CapEff"), ("cap_bnd", "CapBnd"), ("cap_amb", "CapAmb"))


def decode(status: Dict[str, str], replies: Sequence[Reply]) -> Credentials:
    """Return the credentials in STATUS, a thread's /proc/PID/task/TID/status, and the REPLIES to CALLS. Raises OSError."""
    return decode_status(status, replies[0].check())


def decode_status(status: Dict[str, str], secure_bits: int = 0) -> Credentials:
    """Return the credentials in STATUS, as `decode` does, with SECURE_BITS, which it does not tell."""
    return Credentials(
        Ids(*map(int, status["Uid"].split())),
        Ids(*map(int, status["Gid"].split())),
        tuple(map(int, status["Groups"].split())),
        Capabilities(*(int(status[line], 16) for _field, line in _SETS)),
        secure_bits,
        status["NoNewPrivs"] == "1",
    )


def own_capabilities() -> Capabilities:
    """Return the capabilities of this process."""
    return decode_status(procfs.status(os.getpid())).capabilities


def label(pid: int, tid: int) -> str:
    """Return what the security module calls the domain of thread TID, or "" where there is none."""
    try:
        return procfs.text(f"/proc/{pid}/task/{tid}/attr/current").strip("\0\n ")
    except OSError:
        return ""  # EINVAL: no security module that labels tasks


def obstacles(pid: int, tid: int) -> List[Obstacle]:
    """Return what forbids to carry the credentials of thread TID: a security domain that is not ours."""
    domain = label(pid, tid)
    if domain in _UNCONFINED or domain == label(os.getpid(), os.getpid()):
        return []
    remedy = "run the engine in the same domain, or the service unconfined"
    return [Obstacle(pid, f"security label of thread {tid}", f"it is confined as {domain!r}, which cannot be restored", remedy)]


def fill_label(thread_core: Any, pid: int, tid: int) -> None:
    """Put the security domain of thread TID into THREAD_CORE, a thread_core_entry: ours, if any."""
    if label(os.getpid(), os.getpid()) not in _UNCONFINED:
        domain = label(pid, tid)
        if domain not in _UNCONFINED:
            thread_core.creds.lsm_profile = domain.partition(_MODE)[0]


def _check_label(pid: int, thread_core: Any) -> List[Obstacle]:
    wanted = thread_core.creds.lsm_profile
    if wanted in _UNCONFINED or wanted == label(os.getpid(), os.getpid()).partition(_MODE)[0]:
        return []
    return [Obstacle(pid, "security label", f"it was confined as {wanted!r}, and the engine is not", "run the engine in that domain")]


def fill(thread_core: Any, own: Credentials) -> None:
    """Put the credentials OWN of a thread into THREAD_CORE, a thread_core_entry."""
    creds = thread_core.creds
    creds.uid, creds.euid, creds.suid, creds.fsuid = own.uids
    creds.gid, creds.egid, creds.sgid, creds.fsgid = own.gids
    creds.groups.extend(own.groups)
    for (field, _line), bits in zip(_SETS, own.capabilities):
        getattr(creds, field).extend(bits >> 32 * word & 0xFFFFFFFF for word in range(_WORDS))
    creds.secbits = own.secure_bits
    if own.no_new_privs:
        creds.no_new_privs = 1


def read(thread_core: Any) -> Credentials:
    """Return the credentials in THREAD_CORE, a thread_core_entry."""
    c = thread_core.creds
    sets = (sum(word << 32 * index for index, word in enumerate(getattr(c, field))) for field, _line in _SETS)
    uids, gids = Ids(c.uid, c.euid, c.suid, c.fsuid), Ids(c.gid, c.egid, c.sgid, c.fsgid)
    return Credentials(uids, gids, tuple(c.groups), Capabilities(*sets), c.secbits, bool(c.no_new_privs))


def check(pid: int, thread_core: Any) -> List[Obstacle]:
    """Return what in THREAD_CORE this process cannot give to a task: capabilities that it lacks, a security domain that it is not in."""
    found, missing = _check_label(pid, thread_core), read(thread_core).capabilities.permitted & ~own_capabilities().permitted
    if not missing:
        return found
    names = ", ".join(f"CAP_{name}" for number, name in enumerate(_CAPABILITY_NAMES) if missing >> number & 1) or f"{missing:#x}"
    return [*found, Obstacle(pid, "capabilities", f"it holds {names}, which this process has not", "restore from a process that has them")]


ORDER = Order("security bits", CALLS)
"""What `restore` is told of."""


def restore(thread: Tracee, thread_core: Any, replies: Sequence[Reply]) -> None:
    """Give THREAD the credentials in THREAD_CORE; what it may no longer do must be done before.

    REPLIES: those to ORDER. Raises RestoreError.
    """
    wanted, now = read(thread_core), decode(procfs.status(thread.pid, thread.tid), replies)
    if now != wanted:
        order(thread, "credentials", list(_steps(now, wanted)))


def _steps(now: Credentials, wanted: Credentials) -> List[Call]:
    """Return the calls that turn credentials NOW into those WANTED, each while it is still allowed."""
    steps: List[Call] = []
    if now.groups != wanted.groups:
        steps.append(Call("setgroups", (len(wanted.groups), struct.pack(f"<{len(wanted.groups)}I", *wanted.groups))))
    bits = now.secure_bits
    if (now.uids, now.gids) != (wanted.uids, wanted.gids):
        if not bits & _SECBIT_NO_SETUID_FIXUP:  # otherwise a change of user ids drops the capabilities
            bits |= _SECBIT_NO_SETUID_FIXUP
            steps.append(_prctl(PR_SET_SECUREBITS, bits))
        steps += [Call("setresgid", wanted.gids[:3]), Call("setfsgid", wanted.gids[3:])]
        steps += [Call("setresuid", wanted.uids[:3]), Call("setfsuid", wanted.uids[3:])]
    if now.capabilities.ambient:
        steps.append(_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL))
    if bits != wanted.secure_bits:
        steps.append(_prctl(PR_SET_SECUREBITS, wanted.secure_bits))
    steps += _capability_steps(now.capabilities, wanted.capabilities)
    if wanted.no_new_privs and not now.no_new_privs:
        steps.append(_prctl(PR_SET_NO_NEW_PRIVS, 1))
    return steps


def _capability_steps(now: Capabilities, wanted: Capabilities) -> List[Call]:
    last = int(procfs.text(_CAP_LAST_CAP))
    lost = [number for number in range(last + 1) if now.bounding >> number & 1 and not wanted.bounding >> number & 1]
    # the inheritable set may hold what the bounding set has lost, but can no longer be given it then (security/commoncap.c)
    steps = [_capset(now._replace(inheritable=wanted.inheritable))] + [_prctl(PR_CAPBSET_DROP, number) for number in lost]
    raised = [number for number in range(last + 1) if wanted.ambient >> number & 1]
    return steps + [_capset(wanted)] + [_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number) for number in raised]


def _capset(sets: Capabilities) -> Call:
    words = [part >> 32 * word & 0xFFFFFFFF for word in range(_WORDS) for part in (sets.effective, sets.permitted, sets.inheritable)]
    return Call("capset", (struct.pack("<Ii", _CAPABILITY_VERSION_3, 0), struct.pack(f"<{len(words)}I", *words)))


def _prctl(option: int, *args: int) -> Call:
    return Call("prctl", (option, *args, *(0,) * (4 - len(args))))
