# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID/fdinfo (proc_pid_fdinfo(5), Documentation/filesystems/proc.rst): what the kernel tells of one descriptor."""

from __future__ import annotations

import os
from dataclasses import dataclass


_PIECE = 1 << 14


@dataclass(frozen=True)
class EpollTarget:
    """One `tfd:` line: a file that an epoll instance watches."""

    tfd: int
    events: int
    data: int
    pos: int
    inode: int
    dev: int
    """The kernel's own encoding: major << 20 | minor."""


@dataclass(frozen=True)
class FdInfo:
    """The content of one fdinfo file."""

    pos: int
    """The file offset in bytes."""
    flags: int
    """Status flags of the open file, with O_CLOEXEC when the descriptor is close-on-exec."""
    mnt_id: int
    values: dict[str, str]
    """Every other `key: value` line; of repeated keys the last."""
    targets: tuple[EpollTarget, ...] = ()
    locks: tuple[str, ...] = ()
    """The `lock:` lines: file locks and leases that this process holds on the file."""
    marks: tuple[str, ...] = ()
    """The lines of inotify and fanotify, one a watch."""

    @property
    def cloexec(self) -> bool:
        """Whether the descriptor closes at execve(2)."""
        return bool(self.flags & os.O_CLOEXEC)

    @property
    def status_flags(self) -> int:
        """The flags of the open file alone."""
        return self.flags & ~os.O_CLOEXEC

    def pair(self, key: str) -> tuple[int, int]:
        """Return the two numbers of a value written "(seconds, nanoseconds)". KeyError when the kernel wrote none."""
        first, second = self.values[key].strip("()").split(",")
        return int(first), int(second)


def descriptors(pid: int) -> list[int]:
    """Return the numbers of the open descriptors of process PID, sorted. OSError when it is gone or is not ours to read."""
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def fdinfo(pid: int, fd: int) -> FdInfo:
    """Read what the kernel tells of descriptor FD of process PID. OSError when either is gone."""
    file = os.open(f"/proc/{pid}/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)  # without a file object, which takes half of the time
    try:
        text = b""
        while part := os.read(file, _PIECE):
            text += part
    finally:
        os.close(file)
    return parse(text.decode("ascii", "replace"))


def parse(text: str) -> FdInfo:
    """Read TEXT, the content of an fdinfo file."""
    values: dict[str, str] = {}
    targets: list[EpollTarget] = []
    locks: list[str] = []
    marks: list[str] = []
    for line in text.splitlines():
        key, _colon, value = line.partition(":")
        if key == "tfd":
            targets.append(_target(line))
        elif key == "lock":
            locks.append(value.strip())
        elif key.startswith(("inotify ", "fanotify ")):
            marks.append(line)
        else:
            values[key] = value.strip()
    pos, flags, mnt_id = int(values.pop("pos")), int(values.pop("flags"), 8), int(values.pop("mnt_id", "-1"))
    return FdInfo(pos, flags, mnt_id, values, tuple(targets), tuple(locks), tuple(marks))


def _target(line: str) -> EpollTarget:
    """Read "tfd: 8 events: 19 data: ff pos:0 ino:23ee sdev:f"; tfd and pos are decimal, the rest hexadecimal."""
    words = line.replace(":", " ").split()
    value = dict(zip(words[::2], words[1::2]))
    return EpollTarget(
        tfd=int(value["tfd"]),
        events=int(value["events"], 16),
        data=int(value["data"], 16),
        pos=int(value.get("pos", "0")),
        inode=int(value.get("ino", "0"), 16),
        dev=int(value.get("sdev", "0"), 16),
    )
