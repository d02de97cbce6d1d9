# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Having a stopped tree stay where it is should its tracer, which is us, die: then each thread meets a SIGSTOP before all else.

The signal is pending for each thread by itself and cannot be blocked. While the tree is under our hand nobody sees it, and each
thread takes it to a stop of ours, where it is dropped (ptrace(2), signal-delivery-stop); not an instruction runs for that.
"""

from __future__ import annotations

import signal
import struct
from typing import Iterator, NamedTuple, Sequence

from ..kernel import procfs, ptrace

_SIGINFO_HEAD = struct.Struct("=iii")  # si_signo, si_errno, si_code


class Place(NamedTuple):
    """A thread that is to stay."""

    pid: int
    tid: int


def places(pids: Sequence[int]) -> Iterator[Place]:
    """Yield the threads of PIDS, which we have stopped, but for what stays anyway, and for who has a SIGCONT pending: it would be lost."""
    for pid in pids:
        threads = [Place(pid, tid) for tid in procfs.threads(pid)]
        if all(map(_may_be_sent, threads)):
            yield from threads


def leave(threads: Sequence[Place]) -> None:
    """Take from THREADS the signal that was sent to them; they stay stopped by us."""
    for thread in threads:
        try:
            if procfs.thread_status(*thread).pending >> signal.SIGSTOP - 1 & 1:
                _take(thread.tid)
        except procfs.GONE:
            continue  # it was killed


def _may_be_sent(thread: Place) -> bool:
    try:
        number, _errno, code = _SIGINFO_HEAD.unpack_from(ptrace.get_siginfo(thread.tid))
        known = procfs.thread_status(*thread)
    except procfs.GONE:
        return False  # not under our hand
    stays = code >> 8 == ptrace.PTRACE_EVENT_STOP and number != signal.SIGTRAP  # its process was stopped before we came
    return not stays and not (known.pending | known.shared_pending) >> signal.SIGCONT - 1 & 1


def _take(tid: int) -> None:
    delivered = 0
    while True:
        ptrace.cont(tid, delivered)
        status = ptrace.wait(tid)
        if not status.stopped or (status.signal == signal.SIGSTOP and not status.event):
            return
        delivered = 0 if status.event else status.signal  # another came first
