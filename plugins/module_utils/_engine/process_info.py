# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process tree holds, read from /proc: what an operator wants to know before a dump. Touches nothing."""

from __future__ import annotations

import os
import re
import stat as file_kinds
import time
from collections import Counter
from dataclasses import dataclass
from collections.abc import Mapping

from .errors import Obstacle, TargetError
from .kernel import procfs
from .listening import Listener, listeners
from .kernel.procfs import GONE
from .target import check_target

_KIB = 1024
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Task:
    """A process of the tree."""

    pid: int
    ppid: int
    comm: str
    cmdline: tuple[str, ...]
    state: str
    """One letter, as in /proc/PID/stat: R, S, D, T, t, Z."""
    threads: int
    uid: int
    """The effective user."""
    rss: int
    """Bytes in memory."""
    swap: int
    """Bytes swapped out."""
    start_time: float
    """Seconds since the epoch."""
    descriptors: Mapping[str, int]
    """How many descriptors there are of each kind: file, directory, pipe, socket, device, or what an anonymous one is, as eventpoll."""


@dataclass(frozen=True)
class ProcessInfo:
    """A process tree."""

    pid: int
    tasks: tuple[Task, ...]
    """Parents before children."""
    listening: tuple[Listener, ...]
    rss: int
    """Bytes in memory of all tasks; what they share is counted for each."""
    swap: int
    dumpable: bool
    """Whether a dump would take the tree as it is, with all kinds of state allowed that an option allows."""
    obstacles: tuple[Obstacle, ...]
    """What stands in the way of a dump."""


def process_info(pid: int) -> ProcessInfo:
    """Return what the tree under PID holds. Raises TargetError when PID is not a process that can be dumped."""
    check_target(pid)
    tasks: list[Task] = []
    sockets: list[Listener] = []
    for member in procfs.descendants(pid):
        try:
            links = _links(member)
            tasks.append(_task(member, links))
            sockets += listeners(member, _socket_inodes(links))
        except GONE as error:
            if member == pid:
                raise TargetError(f"process {pid} has ended; name one that runs") from error
    obstacles = _obstacles(pid)
    return ProcessInfo(
        pid=pid,
        tasks=tuple(tasks),
        listening=tuple(sockets),
        rss=sum(task.rss for task in tasks),
        swap=sum(task.swap for task in tasks),
        dumpable=not obstacles,
        obstacles=obstacles,
    )


def _task(pid: int, links: Mapping[int, str]) -> Task:
    stat, status = procfs.stat(pid), procfs.status(pid)
    return Task(
        pid=pid,
        ppid=stat.ppid,
        comm=stat.comm,
        cmdline=_cmdline(pid),
        state=stat.state,
        threads=stat.threads,
        uid=int(status["Uid"].split()[1]),
        rss=_bytes(status, "VmRSS"),
        swap=_bytes(status, "VmSwap"),
        start_time=_boot_time() + stat.start_time / _TICKS,
        descriptors=dict(Counter(_kind(pid, fd, link) for fd, link in links.items())),
    )


def _bytes(status: Mapping[str, str], key: str) -> int:
    """Return the bytes that line KEY of STATUS, such as "5120 kB", says; 0 for a zombie, which has no memory."""
    return int(status.get(key, "0").split()[0]) * _KIB


def _cmdline(pid: int) -> tuple[str, ...]:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        content = file.read()
    return tuple(os.fsdecode(word) for word in content.rstrip(b"\0").split(b"\0")) if content else ()


def _boot_time() -> float:
    """Return when the machine was started, in seconds since the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _links(pid: int) -> dict[int, str]:
    """Return what each descriptor of PID refers to, as /proc/PID/fd names it."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except GONE:  # it was closed meanwhile
            continue
    return found


def _kind(pid: int, fd: int, link: str) -> str:
    """Return the kind of file that LINK, of descriptor FD of PID, is."""
    anonymous = re.match(r"anon_inode:\[?([^]]+)\]?", link)
    if anonymous:
        return anonymous[1]
    try:
        mode = os.stat(f"/proc/{pid}/fd/{fd}").st_mode
    except GONE:
        return "file"
    kinds = ((file_kinds.S_ISSOCK, "socket"), (file_kinds.S_ISFIFO, "pipe"), (file_kinds.S_ISDIR, "directory"))
    devices = ((file_kinds.S_ISCHR, "device"), (file_kinds.S_ISBLK, "device"))
    return next((kind for is_kind, kind in kinds + devices if is_kind(mode)), "file")


def _socket_inodes(links: Mapping[int, str]) -> tuple[int, ...]:
    return tuple(int(link[len("socket:[") : -1]) for link in links.values() if link.startswith("socket:["))


def _obstacles(pid: int) -> tuple[Obstacle, ...]:
    """Return what stands in the way of a dump that leaves the tree running. No images dir is looked at."""
    from .dump import plan
    from .options import DumpOptions

    return plan(DumpOptions(tree=pid, images_dir="", leave_running=True)).obstacles
