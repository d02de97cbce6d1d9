# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of a tracked process between two runs of the engine: which dump its tracker counts from.

One small file a process, in a directory that a reboot empties. Its claim is taken back before a tracker is reset and made
when the dump is committed, so that a dump that failed in between leaves no claim behind.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Optional, Set

from ..errors import KernelError
from ..kernel import procfs

DIRECTORY = "/run/stillframe"
MARK = "-uffd-"
"""In the names of empty files, one for each userfaultfd that we made: it can outlive the process that it was made for."""


@dataclass(frozen=True)
class TrackingState:
    """The claim that the tracker of a process tells what changed since one dump."""

    dump_id: str
    """Empty when it counts from none: its last reset belongs to a dump that was not committed."""
    tracker: str
    """uffd_wp or soft_dirty; none for a process restored from the dump and not tracked."""
    uffd: int = -1
    """Number of the tracker's descriptor in the process."""
    uffd_inode: int = 0
    """Its inode, which tells it from every other userfaultfd (anon_inode_getfd_secure, Linux 5.12)."""
    sentinel: int = 0
    """Address of the word by which soft_dirty knows that nobody else has cleared the bits since."""


def load(pid: int) -> Optional[TrackingState]:
    """Return what is remembered of PID, None when there is nothing for this very process."""
    try:
        with open(_path(pid), encoding="utf-8") as file:
            return TrackingState(**json.load(file))
    except (*procfs.GONE, ValueError, TypeError):
        return None


def known_inodes() -> Set[int]:
    """Return the inodes of all userfaultfds that are ours, since boot: a forked child has that of its parent."""
    prefix = f"{procfs.boot_id()}{MARK}"
    try:
        names = os.listdir(DIRECTORY)
    except FileNotFoundError:
        return set()
    return {int(name[len(prefix) :]) for name in names if name.startswith(prefix)}


def save(pid: int, state: TrackingState) -> None:
    """Remember STATE of PID, if it is still there. Raises KernelError."""
    try:
        path = _path(pid)
    except procfs.GONE:
        return
    try:
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        with open(os.open(path + ".partial", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(state), file)
        os.rename(path + ".partial", path)
        if state.uffd_inode:
            mark = os.path.join(DIRECTORY, f"{procfs.boot_id()}{MARK}{state.uffd_inode}")
            os.close(os.open(mark, os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(mark)  # it may be one that was left over
    except OSError as error:
        raise KernelError(
            f"cannot remember the memory tracking of process {pid} in {DIRECTORY} ({error.strerror}); make it writable"
        ) from error


def disclaim(pid: int) -> None:
    """Let the tracker of PID count from no dump, before it is reset. Raises KernelError: an old claim must not stay."""
    known = load(pid)
    if known is not None:
        save(pid, replace(known, dump_id=""))


def forget(pid: int) -> None:
    """Forget what is remembered of PID. Raises KernelError when that cannot be done: an old claim must not stay."""
    try:
        os.unlink(_path(pid))
    except procfs.GONE:
        return
    except OSError as error:
        raise KernelError(
            f"cannot forget the memory tracking of process {pid} in {DIRECTORY} ({error.strerror}); make it writable"
        ) from error


def _path(pid: int) -> str:
    """Return the file for PID; boot and start time tell this process from others that had its number."""
    return os.path.join(DIRECTORY, f"{procfs.boot_id()}-{pid}-{procfs.stat(pid).start_time}.json")
