# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Seccomp, strict mode and filters (seccomp(2)); each thread has its own, and inherits those of its maker.

CRIU images: thread_core_entry.{seccomp_mode,seccomp_filter}, and all filters in seccomp.img, each naming the one installed before.
Filters bind every system call, so those that we have a thread make as well: they are suspended as long as we trace it
(PTRACE_O_SUSPEND_SECCOMP), which takes CAP_SYS_ADMIN and an engine that is under no filter itself.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

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


def of_thread(thread: Tracee) -> Seccomp:
    """Return what binds THREAD. Raises OSError; UnsupportedError when a filter asks a supervisor, who is not there after a restore."""
    mode = int(procfs.status(thread.pid, thread.tid).get("Seccomp", "0"))
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
    """The filters of a dump, each once for the same ones before it: those of threads and children that inherited them."""

    def __init__(self) -> None:
        self._entries: List[Any] = []
        self._known: Dict[Tuple[int, Filter], int] = {}

    def fill(self, thread_core: Any, own: Seccomp) -> None:
        """Put what binds a thread into THREAD_CORE, a thread_core_entry."""
        thread_core.seccomp_mode = own.mode
        last = -1
        for one in own.filters:
            last = self._number(last, one)
        if own.filters:
            thread_core.seccomp_filter = last

    def _number(self, before: int, one: Filter) -> int:
        if (before, one) not in self._known:
            entry = message("seccomp_filter")(filter=one.program)
            if before >= 0:
                entry.prev = before
            if one.log:
                entry.flags = _FLAG_LOG
            self._known[before, one] = len(self._entries)
            self._entries.append(entry)
        return self._known[before, one]

    def write(self, images: Any) -> None:
        """Write the image, where there are filters. Raises ImagesError."""
        if self._entries:
            images.write("seccomp", [message("seccomp_entry")(seccomp_filters=self._entries)])


def read(images: Any) -> Tuple[Any, ...]:
    """Return the filters in IMAGES, seccomp_filter messages. Raises ImagesError."""
    return tuple(images.read_one("seccomp").seccomp_filters) if images.has("seccomp") else ()


def wanted(thread_core: Any, table: Sequence[Any]) -> Seccomp:
    """Return what binds the thread of THREAD_CORE; TABLE as `read` returns it. Raises IndexError for a filter that is not there."""
    if thread_core.seccomp_mode != FILTER:
        return Seccomp(thread_core.seccomp_mode)
    filters: List[Filter] = []
    number = thread_core.seccomp_filter
    while number is not None and len(filters) <= len(table):
        filters.append(Filter(bytes(table[number].filter), bool(table[number].flags & _FLAG_LOG)))
        number = table[number].prev if table[number].HasField("prev") else None
    return Seccomp(FILTER, tuple(reversed(filters)))


def check(pid: int, cores: Sequence[Any], table: Sequence[Any]) -> List[Obstacle]:
    """Return what stands in the way of binding the threads of PID; CORES are its core_entry messages."""
    bound = [core.thread_core for core in cores if core.thread_core.seccomp_mode]
    if not bound:
        return []
    for thread_core in bound:
        try:
            known = len(wanted(thread_core, table).filters) <= len(table)
        except IndexError:
            known = False
        if not known:
            return [Obstacle(pid, "seccomp", "the images lack a filter of it", "use another copy of the dump")]
    return _means(pid, "seccomp")


def restore(threads: Sequence[Tracee], cores: Sequence[Any], table: Sequence[Any]) -> None:
    """Bind THREADS, stubs that may do everything, to what their core_entry messages CORES say. Raises RestoreError.

    Their system calls stay ours to make as long as we trace them. What all threads have in common is one and the same filter
    for all, so that the program may synchronize its threads further (SECCOMP_FILTER_FLAG_TSYNC).
    """
    all_wanted = [wanted(core.thread_core, table) for core in cores]
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
