# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals: dispositions, blocked masks, pending signals with their siginfo, alternate stacks.

CRIU images: task_core_entry.{sigactions,signals_s,blk_sigset}, thread_core_entry.{signals_p,blk_sigset,sas}.
"""

from __future__ import annotations

import signal
import struct
from dataclasses import dataclass
from typing import Any, List, NamedTuple, Sequence, Tuple

from ..kernel import procfs, ptrace
from ..tracee.calls import Call, Out, Reply
from ..tracee.tracee import Tracee
from .batch import Order, order, refusal

_LAST_SIGNAL = 64  # _NSIG of all but MIPS
_SET_SIZE = 8  # bytes of a sigset_t of the kernel's
_SIGACTION = struct.Struct("<4Q")  # struct kernel_sigaction of x86: handler, flags, restorer, mask
_STACK = struct.Struct("<Qi4xQ")  # stack_t: sp, flags, size
_SS_ONSTACK, _SS_DISABLE = 1, 2
_SIGNALS = tuple(number for number in range(1, _LAST_SIGNAL + 1) if number not in (signal.SIGKILL, signal.SIGSTOP))


class Action(NamedTuple):
    """What a signal does (struct kernel_sigaction)."""

    handler: int
    flags: int
    restorer: int
    mask: int


class AlternateStack(NamedTuple):
    """The stack of sigaltstack(2)."""

    address: int
    flags: int
    size: int


@dataclass(frozen=True)
class ThreadSignals:
    """The signal state of one thread."""

    blocked: int
    """Bit n-1 is signal n."""
    pending: Tuple[bytes, ...]
    """The siginfo_t of each signal, in their order."""
    stack: AlternateStack


ACTION_CALLS = tuple(Call("rt_sigaction", (number, 0, Out(_SIGACTION.size), _SET_SIZE)) for number in _SIGNALS)
STACK_CALLS = (Call("sigaltstack", (0, Out(_STACK.size))),)


def actions(replies: Sequence[Reply]) -> Tuple[Action, ...]:
    """Return the dispositions in the replies to ACTION_CALLS: of signals 1 to 64 but SIGKILL and SIGSTOP. Raises OSError."""
    return tuple(Action(*_SIGACTION.unpack(reply.outs[0])) for reply in replies if reply.check() == 0)


def of_thread(thread: Tracee, replies: Sequence[Reply]) -> ThreadSignals:
    """Return the signal state of THREAD; REPLIES are those to STACK_CALLS. Raises OSError."""
    replies[0].check()
    stack = AlternateStack(*_STACK.unpack(replies[0].outs[0]))
    pending = ptrace.peek_siginfo(thread.tid, shared=False)
    if thread.resume_signal:
        pending.append(struct.pack("<i", thread.resume_signal).ljust(ptrace.SIGINFO_SIZE, b"\0"))
    return ThreadSignals(ptrace.get_sigmask(thread.tid), tuple(pending), stack)


def shared_pending(leader: Tracee) -> Tuple[bytes, ...]:
    """Return the siginfo_t of each signal that is pending for the whole process."""
    return tuple(ptrace.peek_siginfo(leader.tid, shared=True))


def fill_process(tc: Any, dispositions: Sequence[Action], pending: Sequence[bytes]) -> None:
    """Put the signal state of a process into TC, a task_core_entry."""
    for action in dispositions:
        handler, flags, restorer, mask = action
        tc.sigactions.add(sigaction=handler, flags=flags, restorer=restorer, mask=mask, compat_sigaction=False)
    _fill_queue(tc.signals_s, pending)


def fill_thread(thread_core: Any, signals: ThreadSignals) -> None:
    """Put the signal state of a thread, but its mask, into THREAD_CORE, a thread_core_entry."""
    thread_core.sas.ss_sp, thread_core.sas.ss_flags, thread_core.sas.ss_size = signals.stack
    _fill_queue(thread_core.signals_p, signals.pending)


def _fill_queue(queue: Any, pending: Sequence[bytes]) -> None:
    queue.SetInParent()
    for info in pending:
        queue.signals.add(siginfo=info)


def restore_process(leader: Tracee, tc: Any) -> None:
    """Set the dispositions in TC and queue the signals for the whole process. Raises RestoreError."""
    entries = [_SIGACTION.pack(entry.sigaction, entry.flags, entry.restorer, entry.mask) for entry in tc.sigactions]
    order(leader, "signal dispositions", [Call("rt_sigaction", (n, entry, 0, _SET_SIZE)) for n, entry in zip(_SIGNALS, entries)])
    _queue(leader, "rt_sigqueueinfo", tc.signals_s)


def orders(thread_core: Any) -> List[Order]:
    """Return what sets the alternate stack in THREAD_CORE."""
    sas = thread_core.sas
    # a thread that was stopped on its stack is on it again when its registers are back: the kernel looks at sp
    stack = _STACK.pack(sas.ss_sp, sas.ss_flags & ~_SS_ONSTACK, sas.ss_size)
    return [Order("alternate signal stack", [Call("sigaltstack", (stack, 0))])] if thread_core.HasField("sas") else []


def restore_pending(thread: Tracee, thread_core: Any) -> None:
    """Queue the signals for the thread in THREAD_CORE. Raises RestoreError."""
    _queue(thread, "rt_tgsigqueueinfo", thread_core.signals_p)


def restore_mask(thread: Tracee, mask: int) -> None:
    """Set the mask of blocked signals. Raises OSError."""
    ptrace.set_sigmask(thread.tid, mask)


def _queue(thread: Tracee, call: str, queue: Any) -> None:
    """Make THREAD queue the signals to itself, or to its process: so the kernel takes any si_code.

    One by one and not as a batch, since a batch leaves a signal unblocked, which might be one of these.
    """
    if not queue.signals:
        return
    own = procfs.thread_status(thread.pid, thread.tid)
    ids = (own.own_pid, own.own_tid) if call == "rt_tgsigqueueinfo" else (own.own_pid,)
    room = thread.open_scratch().table
    for entry in queue.signals:
        procfs.write_memory(thread.pid, room, entry.siginfo)
        (number,) = struct.unpack_from("<i", entry.siginfo)
        try:
            thread.single(call, *ids, number, room)
        except OSError as error:
            raise refusal(thread, f"pending signal {number}", error) from error
