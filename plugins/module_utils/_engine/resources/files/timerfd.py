# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Timers that are read as files (timerfd_create(2)).

images: files.img (timerfd_entry: clock, ticks not read yet, what is left until the next expiry, interval, flags of timerfd_settime).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import time
from collections.abc import Mapping

from ...images.schema import message
from ...kernel.fdinfo import fdinfo
from ...kernel.syscall import syscall
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext, Task
from .status import set_flags

TFD_TIMER_ABSTIME = 1
TFD_IOC_SET_TICKS = 0x40085400
"""_IOW('T', 0, u64) of linux/timerfd.h (Linux 3.17, CONFIG_CHECKPOINT_RESTORE)."""
SECOND = 1000000000

_ITIMERSPEC = struct.Struct("=qqqq")
"""struct itimerspec: interval (seconds, nanoseconds), value (seconds, nanoseconds)."""
_TICKS = struct.Struct("=Q")


def is_timerfd(file: OpenFile) -> bool:
    """Tell whether FILE is a timerfd."""
    return file.link == "anon_inode:[timerfd]"


class TimerfdDump(KindDump):
    """Dumps timers."""

    def collect(self, description: Description) -> Entry:
        """Return the timerfd_entry.

        timerfd_gettime(2) comes first: it makes the kernel count the ticks of an interval timer that expired and was not
        read yet, and set it going again, as a read would; fdinfo alone shows such a timer as stopped.
        """
        file = description.file
        syscall("timerfd_gettime", file.local, ctypes.create_string_buffer(_ITIMERSPEC.size))
        info = fdinfo(os.getpid(), file.local)
        value, interval = info.pair("it_value"), info.pair("it_interval")
        return message("timerfd_entry")(
            id=description.file_id,
            flags=file.flags,
            fown=description.fown,
            clockid=int(info.values["clockid"]),
            ticks=int(info.values["ticks"]),
            settime_flags=int(info.values["settime flags"], 8),
            vsec=value[0],
            vnsec=value[1],
            isec=interval[0],
            insec=interval[1],
        )


class TimerfdRestore(KindRestore):
    """Makes timers; they start when the first task that holds them is complete, those that none holds at the end."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._idle: dict[int, Entry] = {}
        """Those on their way through a socket, by our descriptors."""

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them, not armed yet."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            found[file_id] = self.context.keep(syscall("timerfd_create", entry.clockid, os.O_CLOEXEC))
            set_flags(found[file_id], entry.flags)
            if not self.context.holder(file_id):
                self._idle[found[file_id]] = entry
        return found

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Arm the timers of TASK; time goes on for them from here."""
        for file_id in {descriptor.file_id for descriptor in task.descriptors if descriptor.file_id in entries}:
            arm(files[file_id], entries[file_id])

    def settle(self) -> None:
        """Arm the timers that no task has a descriptor of."""
        for local, entry in self._idle.items():
            arm(local, entry)


def arm(local: int, entry: Entry) -> None:
    """Set timer LOCAL going with what was left at the dump, and give it the ticks that were not read."""
    left, interval = entry.vsec * SECOND + entry.vnsec, entry.isec * SECOND + entry.insec
    left = left or interval  # an expired interval timer in an image of CRIU's
    if left and entry.settime_flags & TFD_TIMER_ABSTIME:
        left += time.clock_gettime_ns(entry.clockid)
    spec = _ITIMERSPEC.pack(*divmod(interval, SECOND), *divmod(left, SECOND))
    syscall("timerfd_settime", local, entry.settime_flags, spec, 0)
    if entry.ticks:
        fcntl.ioctl(local, TFD_IOC_SET_TICKS, _TICKS.pack(entry.ticks))


TIMERFDS = Kind("TIMERFD", "tfd", is_timerfd, TimerfdDump, TimerfdRestore)
