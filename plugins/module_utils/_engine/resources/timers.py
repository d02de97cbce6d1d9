# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Interval timers (setitimer(2)) and POSIX timers (timer_create(2)): task_core_entry.timers.

Times are those left when the task was stopped; they are armed again as the last thing before it goes on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

from ..errors import Obstacle, RestoreError
from ..kernel import procfs
from ..kernel.prctl import PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF, PR_TIMER_CREATE_RESTORE_IDS_ON
from ..tracee.calls import Call, Out, Ref, Reply
from ..tracee.tracee import Tracee
from .batch import order

# include/uapi/asm-generic/siginfo.h
SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 0, 1, 2, 4
_ITIMERS = ("real", "virt", "prof")  # by number: ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
_TIMERSPEC = struct.Struct("<4Q")  # interval, then value: seconds and fraction
_SIGEVENT = struct.Struct("<Qiii44x")  # value, signal, notify, thread
_CLOCK_FD, _CLOCK_MASK = 3, 7  # include/linux/posix-timers.h: a clock that is a descriptor


@dataclass(frozen=True)
class Time:
    """An interval and the time left: seconds, and microseconds (interval timers) or nanoseconds (POSIX timers)."""

    interval: Tuple[int, int]
    left: Tuple[int, int]

    def pack(self) -> bytes:
        """Return the struct that arms the timer; one that was about to expire is left a whole interval, as CRIU does."""
        return _TIMERSPEC.pack(*self.interval, *(self.left if any(self.left) else self.interval))

    @property
    def armed(self) -> bool:
        return any(self.left) or any(self.interval)


@dataclass(frozen=True)
class PosixTimer:
    """A timer of timer_create(2)."""

    id: int
    clock: int
    """As an unsigned number of 32 bits: a negative one is the CPU clock of a task."""
    signal: int
    notify: int
    value: int
    thread: int
    """The thread to be signalled with SIGEV_THREAD_ID, else 0."""
    time: Time
    overrun: int = 0


@dataclass(frozen=True)
class Timers:
    """All timers of a process."""

    intervals: Tuple[Time, ...]
    posix: Tuple[PosixTimer, ...]


_STOPPED = Time((0, 0), (0, 0))


def posix_timers(pid: int) -> Tuple[PosixTimer, ...]:
    """Return the POSIX timers of PID as /proc/PID/timers has them: without their times."""
    found: List[PosixTimer] = []
    lines = [line.partition(": ")[2] for line in procfs.text(f"/proc/{pid}/timers").splitlines()]
    for number, signal, notify, clock in zip(*(iter(lines),) * 4):
        signo, _slash, value = signal.partition("/")
        method, _slash, target = notify.partition("/")
        kind = {"signal": SIGEV_SIGNAL, "none": SIGEV_NONE, "thread": SIGEV_THREAD}[method]
        by_thread = target.startswith("tid.")
        thread = int(target.partition(".")[2]) if by_thread else 0
        kind |= SIGEV_THREAD_ID if by_thread else 0
        found.append(PosixTimer(int(number), int(clock) & 0xFFFFFFFF, int(signo), kind, int(value, 16), thread, _STOPPED))
    return tuple(sorted(found, key=lambda timer: timer.id))


def obstacles(pid: int) -> List[Obstacle]:
    """Return the timers of PID that cannot be made again: those of a clock that is a descriptor."""
    return [
        Obstacle(pid, f"timer {timer.id}", "it runs on a clock device", "stop the timer before the dump")
        for timer in posix_timers(pid)
        if timer.clock >> 31 and timer.clock & _CLOCK_MASK == _CLOCK_FD
    ]


def calls(timers: Sequence[PosixTimer]) -> List[Call]:
    """Return the calls that ask for the times of all interval timers and of TIMERS."""
    asked = [Call("getitimer", (which, Out(_TIMERSPEC.size))) for which in range(len(_ITIMERS))]
    for timer in timers:
        asked += [Call("timer_gettime", (timer.id, Out(_TIMERSPEC.size))), Call("timer_getoverrun", (timer.id,))]
    return asked


def decode(timers: Sequence[PosixTimer], replies: Sequence[Reply]) -> Timers:
    """Return TIMERS and the interval timers with their times, from the REPLIES to `calls`. Raises OSError."""
    intervals = tuple(_time(reply) for reply in replies[: len(_ITIMERS)])
    rest = replies[len(_ITIMERS) :]
    posix = tuple(
        PosixTimer(t.id, t.clock, t.signal, t.notify, t.value, t.thread, _time(time), overrun.check())
        for t, time, overrun in zip(timers, rest[0::2], rest[1::2])
    )
    return Timers(intervals, posix)


def _time(reply: Reply) -> Time:
    reply.check()
    words = _TIMERSPEC.unpack(reply.outs[0])
    return Time(words[:2], words[2:])


def fill(tc: Any, timers: Timers) -> None:
    """Put TIMERS into TC, a task_core_entry."""
    for name, time in zip(_ITIMERS, timers.intervals):
        entry = getattr(tc.timers, name)
        (entry.isec, entry.iusec), (entry.vsec, entry.vusec) = time.interval, time.left
    for timer in timers.posix:
        entry = tc.timers.posix.add(it_id=timer.id, clock_id=timer.clock, si_signo=timer.signal, it_sigev_notify=timer.notify)
        entry.sival_ptr, entry.overrun = timer.value, timer.overrun
        (entry.isec, entry.insec), (entry.vsec, entry.vnsec) = timer.time.interval, timer.time.left
        if timer.thread:
            entry.notify_thread_id = timer.thread


def read(tc: Any) -> Timers:
    """Return the timers in TC, a task_core_entry."""
    entries = [getattr(tc.timers, name) for name in _ITIMERS]
    posix = tuple(
        PosixTimer(
            e.it_id, e.clock_id, e.si_signo, e.it_sigev_notify, e.sival_ptr, e.notify_thread_id,
            Time((e.isec, e.insec), (e.vsec, e.vnsec)), e.overrun,
        )
        for e in tc.timers.posix
    )  # fmt: skip
    return Timers(tuple(Time((e.isec, e.iusec), (e.vsec, e.vusec)) for e in entries), posix)


def create(leader: Tracee, tc: Any) -> None:
    """Make the POSIX timers in TC, with the ids that they had, not armed. Raises RestoreError."""
    timers = {timer.id: timer for timer in read(tc).posix}
    if not timers:
        return
    (switched,) = leader.batch([Call("prctl", (PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_ON, 0, 0, 0))])
    if switched.value == 0:  # Linux 6.17
        wanted = sorted(timers)
        replies = order(leader, "POSIX timers", [_create(timers[number], number) for number in wanted])
        order(leader, "POSIX timers", [Call("prctl", (PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF, 0, 0, 0))])
    else:  # ids count up from 0 in a new process: make them all, and delete the gaps at once
        wanted = list(range(max(timers) + 1))
        gap = PosixTimer(0, 0, 0, SIGEV_NONE, 0, 0, _STOPPED)
        ordered = [(_create(timers.get(number, gap), 0), Call("timer_delete", (number,))) for number in wanted]
        calls_made = [call for number, pair in zip(wanted, ordered) for call in pair[: 1 if number in timers else 2]]
        replies = [reply for reply in order(leader, "POSIX timers", calls_made) if reply.outs]
    made = [int.from_bytes(reply.outs[0], "little") for reply in replies]
    if made != wanted:
        raise RestoreError(f"process {leader.pid}: POSIX timers got the ids {made} for {wanted}; restore on Linux 6.17 or newer")


def _create(timer: PosixTimer, number: int) -> Call:
    event = _SIGEVENT.pack(timer.value, timer.signal, timer.notify, timer.thread)
    return Call("timer_create", (timer.clock | (~0 << 32 if timer.clock >> 31 else 0), event, Ref(struct.pack("<i", number))))


def arm(leader: Tracee, tc: Any) -> None:
    """Start all timers in TC. From now on they run. Raises RestoreError."""
    timers = read(tc)
    asked = [Call("setitimer", (which, time.pack(), 0)) for which, time in enumerate(timers.intervals) if time.armed]
    asked += [Call("timer_settime", (timer.id, 0, timer.time.pack(), 0)) for timer in timers.posix if timer.time.armed]
    order(leader, "timers", asked)
