# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a thread has of its own besides registers, signals, credentials and scheduling.

CRIU images: thread_info.clear_tid_addr, thread_core_entry.{futex_rla,rseq_entry,comm,pdeath_sig}.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any, List, Sequence

from ..kernel import procfs, ptrace
from ..kernel.prctl import PR_GET_PDEATHSIG, PR_GET_TID_ADDRESS, PR_SET_NAME, PR_SET_PDEATHSIG
from ..kernel.ptrace import RseqConfiguration
from ..kernel.syscall import syscall
from ..tracee.calls import Call, Out, Reply
from ..tracee.rseq import RSEQ_CS_POINTER
from ..tracee.tracee import Tracee
from .batch import Order, order

_RSEQ_FLAG_UNREGISTER = 1  # include/uapi/linux/rseq.h
_ROBUST_LIST_HEAD_SIZE = 24  # struct robust_list_head of a 64-bit task; the kernel takes no other


@dataclass(frozen=True)
class ThreadState:
    """What one thread registered with the kernel."""

    comm: str
    tid_address: int
    """Where the kernel writes 0 and wakes a futex when the thread ends (set_tid_address(2))."""
    robust_list: int
    robust_list_size: int
    death_signal: int
    """The signal that comes when the parent ends (PR_SET_PDEATHSIG), or 0."""
    rseq: RseqConfiguration


CALLS = (
    Call("prctl", (PR_GET_TID_ADDRESS, Out(8), 0, 0, 0)),
    Call("prctl", (PR_GET_PDEATHSIG, Out(4), 0, 0, 0)),
)


def of_thread(thread: Tracee, replies: Sequence[Reply]) -> ThreadState:
    """Return the state of THREAD; REPLIES are those to CALLS. Raises OSError."""
    tid_address, death_signal = (int.from_bytes(reply.outs[0], "little") for reply in replies if reply.check() == 0)
    head, size = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    syscall("get_robust_list", thread.tid, head, size)
    return ThreadState(
        procfs.text(f"/proc/{thread.pid}/task/{thread.tid}/comm")[:-1],
        tid_address,
        int.from_bytes(head.raw, "little"),
        int.from_bytes(size.raw, "little"),
        death_signal,
        ptrace.rseq_configuration(thread.tid),
    )


def printable(comm: str) -> str:
    """Return COMM as a string that protobuf takes: bytes that are no UTF-8 are replaced."""
    return comm.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def unregister_rseq(thread: Tracee) -> None:
    """Make THREAD forget its restartable-sequence area: a forked child has its parent's. Raises RestoreError.

    To be called before the memory that the area lies in is unmapped: the kernel kills a task whose area is gone.
    """
    rseq = ptrace.rseq_configuration(thread.tid)
    if rseq.pointer:
        order(thread, "restartable sequences", [Call("rseq", (rseq.pointer, rseq.size, _RSEQ_FLAG_UNREGISTER, rseq.signature))])


def fill(core: Any, own: ThreadState) -> None:
    """Put the state OWN of a thread into CORE, a core_entry."""
    core.thread_info.clear_tid_addr = own.tid_address
    thread_core = core.thread_core
    thread_core.futex_rla, thread_core.futex_rla_len = own.robust_list, own.robust_list_size
    thread_core.comm = printable(own.comm)
    if own.death_signal:
        thread_core.pdeath_sig = own.death_signal
    entry = thread_core.rseq_entry
    entry.rseq_abi_pointer, entry.rseq_abi_size, entry.signature = own.rseq.pointer, own.rseq.size, own.rseq.signature


def orders(core: Any) -> List[Order]:
    """Return what registers with the kernel what CORE says that the thread had registered.

    Its memory must be in place, and `unregister_rseq` done.
    """
    thread_core = core.thread_core
    calls = [Call("set_tid_address", (core.thread_info.clear_tid_addr,))]
    if thread_core.comm:
        calls.append(Call("prctl", (PR_SET_NAME, thread_core.comm.encode("utf-8", "surrogateescape") + b"\0", 0, 0, 0)))
    if thread_core.futex_rla_len == _ROBUST_LIST_HEAD_SIZE:
        calls.append(Call("set_robust_list", (thread_core.futex_rla, thread_core.futex_rla_len)))
    entry = thread_core.rseq_entry
    rseq = [Call("rseq", (entry.rseq_abi_pointer, entry.rseq_abi_size, 0, entry.signature))] if entry.rseq_abi_pointer else []
    return [Order("thread registrations", calls), Order("restartable sequences", rseq)]


def restore_section(thread: Tracee, core: Any) -> None:
    """Let THREAD be in the restartable sequence that CORE has, as CRIU dumps one: the kernel forgets it when the thread makes our calls."""
    entry = core.thread_core.rseq_entry
    if entry.rseq_cs_pointer:
        procfs.write_memory(thread.pid, entry.rseq_abi_pointer + RSEQ_CS_POINTER, struct.pack("<Q", entry.rseq_cs_pointer))


def restore_death_signal(thread: Tracee, thread_core: Any) -> None:
    """Set the signal that comes when the parent ends; a change of credentials clears it, so after that. Raises RestoreError."""
    if thread_core.pdeath_sig:
        order(thread, "parent death signal", [Call("prctl", (PR_SET_PDEATHSIG, thread_core.pdeath_sig, 0, 0, 0))])
