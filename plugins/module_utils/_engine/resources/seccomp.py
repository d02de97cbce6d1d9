# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Seccomp, strict mode and filters (seccomp(2)); each thread has its own, and inherits those of its maker.

CRIU images: thread_core_entry.{seccomp_mode,seccomp_filter}, and all filters in seccomp.img, each naming the one
installed after it.
Filters bind every system call, so those that we have a thread make as well: they are suspended as long as we trace it
(PTRACE_O_SUSPEND_SECCOMP), which takes CAP_SYS_ADMIN and an engine that is under no filter itself.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ..errors import Obstacle, UnsupportedError
from ..images.schema import message
from ..kernel import procfs, ptrace
from ..kernel.prctl import PR_SET_SECCOMP
from ..tracee.calls import Call, Struct
from ..tracee.tracee import Tracee
from .batch import order
from .credentials import own_capabilities

DISABLED, STRICT, FILTER = 0, 1, 2
"""SECCOMP_MODE_…, thread_core_entry.seccomp_mode."""
_SET_MODE_FILTER = 1  # include/uapi/linux/seccomp.h
_FLAG_TSYNC, _FLAG_LOG = 1 << 0, 1 << 1
_RETURN_CONSTANT = 0x06  # BPF_RET | BPF_K
_RET_ACTION, _RET_USER_NOTIF = 0xFFFF0000, 0x7FC00000
_NONE = -1
_INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter
_CAP_SYS_ADMIN = 21


class Filter(NamedTuple):
    """One filter, by its content."""

    program: bytes
    """struct sock_filter[]"""
    log: bool
    """SECCOMP_FILTER_FLAG_LOG."""


@dataclass(frozen=True)
class Seccomp:
    """What binds one thread."""

    mode: int = DISABLED
    filters: Tuple[Filter, ...] = ()
    """In the order in which they were installed."""


def obstacles(pid: int, tid: int) -> List[Obstacle]:
    """Return what hinders us to make calls in thread TID, and to read its filters."""
    mode = int(procfs.status(pid, tid).get("Seccomp", "0"))
    return _means(pid, f"seccomp of thread {tid}") if mode else []


def _means(pid: int, where: str) -> List[Obstacle]:
    if not own_capabilities().effective >> _CAP_SYS_ADMIN & 1:
        return [Obstacle(pid, where, "CAP_SYS_ADMIN is missing to suspend it", "run the engine as root")]
    if procfs.status(os.getpid()).get("Seccomp", "0") != "0":
        return [Obstacle(pid, where, "the engine is under seccomp itself", "run the engine outside of that sandbox")]
    return []


def of_thread(thread: Tracee, status: Mapping[str, str]) -> Seccomp:
    """Return what binds THREAD, whose /proc/PID/status is STATUS.

    Raises OSError; UnsupportedError when a filter asks a supervisor, who is not there after a restore.
    """
    mode = int(status.get("Seccomp", "0"))
    if mode != FILTER:
        return Seccomp(mode)
    filters = tuple(Filter(program, bool(flags & _FLAG_LOG)) for program, flags in ptrace.seccomp_filters(thread.tid))
    if any(_asks(one.program) for one in filters):
        why = "a filter of it asks a supervisor (SECCOMP_RET_USER_NOTIF)"
        raise UnsupportedError([Obstacle(thread.pid, f"seccomp of thread {thread.tid}", why, "run the service without that supervisor")])
    return Seccomp(mode, filters)


def _asks(program: bytes) -> bool:
    instructions = _INSTRUCTION.iter_unpack(program)
    return any(code == _RETURN_CONSTANT and value & _RET_ACTION == _RET_USER_NOTIF for code, _true, _false, value in instructions)


class FilterTable:
    """The filters of a dump, each once for the same ones installed after it."""

    def __init__(self) -> None:
        self._entries: List[Any] = []
        self._known: Dict[Tuple[int, int, bytes], int] = {}

    def fill(self, cores: Sequence[Any], threads: Sequence[Seccomp]) -> None:
        """Put what binds the THREADS of a process, the leader first, into CORES, their core_entry messages.

        Where all have the same filters, CRIU names those of the leader only, which the others get by SECCOMP_FILTER_FLAG_TSYNC.
        """
        alike = len(threads) > 1 and all(own == threads[0] for own in threads) and threads[0].mode == FILTER
        for core, own in list(zip(cores, threads))[: 1 if alike else None]:
            if own.mode:
                core.thread_core.seccomp_mode = own.mode
            following = _NONE
            for one in reversed(own.filters):
                following = self._number(one.program, (_FLAG_LOG if one.log else 0) | (_FLAG_TSYNC if alike else 0), following)
            if own.filters:
                core.thread_core.seccomp_filter = following

    def _number(self, program: bytes, flags: int, following: int) -> int:
        key = (following, flags, program)
        if key not in self._known:
            entry = message("seccomp_filter")(filter=program, flags=flags)
            if following != _NONE:
                entry.prev = following
            self._known[key] = len(self._entries)
            self._entries.append(entry)
        return self._known[key]

    def write(self, images: Any) -> None:
        """Write the image, where there are filters. Raises ImagesError."""
        if self._entries:
            images.write("seccomp", [message("seccomp_entry")(seccomp_filters=self._entries)])


def read(images: Any) -> Tuple[Any, ...]:
    """Return the filters in IMAGES, seccomp_filter messages. Raises ImagesError."""
    return tuple(images.read_one("seccomp").seccomp_filters) if images.has("seccomp") else ()


def wanted(cores: Sequence[Any], table: Sequence[Any]) -> List[Seccomp]:
    """Return what binds the threads of CORES, core_entry messages, the leader's first; TABLE as `read` returns it.

    Raises IndexError for a filter that is not there.
    """
    leader = cores[0]
    old = leader.HasField("tc") and leader.tc.old_seccomp_mode  # CRIU before 3.12: for all threads
    first = leader.tc.old_seccomp_filter if old else leader.thread_core.seccomp_filter
    own = _chain(old or leader.thread_core.seccomp_mode, first, table)
    spread = [one for one, flags in own if flags & _FLAG_TSYNC or old]
    found = [_bound(old or leader.thread_core.seccomp_mode, [one for one, _flags in own])]
    for thread_core in (core.thread_core for core in cores[1:]):
        chain = [one for one, _flags in _chain(thread_core.seccomp_mode, thread_core.seccomp_filter, table)]
        found.append(_bound(thread_core.seccomp_mode or (FILTER if spread else DISABLED), chain or spread))
    return found


def _bound(mode: int, filters: Sequence[Filter]) -> Seccomp:
    return Seccomp(mode, tuple(filters) if mode == FILTER else ())


def _chain(mode: int, number: int, table: Sequence[Any]) -> List[Tuple[Filter, int]]:
    """Return the filters from NUMBER on, each with its flags, in the order of their installation: `prev` is the next one."""
    found: List[Tuple[Filter, int]] = []
    while mode == FILTER:
        entry = table[number]
        found.append((Filter(bytes(entry.filter), bool(entry.flags & _FLAG_LOG)), entry.flags))
        if len(found) > len(table):
            raise IndexError(number)  # they go round in a circle
        if not entry.HasField("prev"):
            break
        number = entry.prev
    return found


def check(pid: int, cores: Sequence[Any], table: Sequence[Any]) -> List[Obstacle]:
    """Return what stands in the way of binding the threads of PID; CORES are its core_entry messages."""
    try:
        bound = any(own.mode for own in wanted(cores, table))
    except IndexError:
        return [Obstacle(pid, "seccomp", "the images lack a filter of it", "use another copy of the dump")]
    return _means(pid, "seccomp") if bound else []


def restore(threads: Sequence[Tracee], cores: Sequence[Any], table: Sequence[Any]) -> None:
    """Bind THREADS, stubs that may do everything, to what their core_entry messages CORES say. Raises RestoreError.

    Their system calls stay ours to make as long as we trace them. What all threads have in common is one and the same filter
    for all, so that the program may synchronize its threads further (SECCOMP_FILTER_FLAG_TSYNC).
    """
    all_wanted = wanted(cores, table)
    if not any(one.mode for one in all_wanted):
        return
    for thread in threads:
        thread.suspend_seccomp()
    common = _common([one.filters for one in all_wanted])
    order(threads[0], "seccomp filters", [_install(one, _FLAG_TSYNC if len(threads) > 1 else 0) for one in common])
    for thread, own in zip(threads, all_wanted):
        order(thread, "seccomp filters", [_install(one) for one in own.filters[len(common) :]])
        if own.mode == STRICT:
            order(thread, "seccomp", [Call("prctl", (PR_SET_SECCOMP, STRICT, 0, 0, 0))])


def _common(chains: Sequence[Tuple[Filter, ...]]) -> Tuple[Filter, ...]:
    """Return the filters that all CHAINS begin with."""
    length = 0
    while all(len(chain) > length and chain[length] == chains[0][length] for chain in chains):
        length += 1
    return chains[0][:length]


def _install(one: Filter, flags: int = 0) -> Call:
    program = Struct(struct.pack("<H6xQ", len(one.program) // _INSTRUCTION.size, 0), ((8, one.program),))
    return Call("seccomp", (_SET_MODE_FILTER, flags | (_FLAG_LOG if one.log else 0), program))
