# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracking by userfaultfd write-protection (Linux 6.7): asynchronous, without anybody who waits for faults.

The userfaultfd lives in the process, so that it outlasts us; registering and scanning are done from outside, and only
making it needs a stop. A page counts as clean only if it is write-protected: what is new, moved by mremap(2), made
after an execve(2) or by a child is not.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
from contextlib import suppress
from typing import Iterator, List, Optional, Sequence, Set

from ..errors import KernelError
from ..kernel import fdinfo, pagemap, procfs, userfaultfd
from ..kernel.pidfd import ProcessFiles
from ..kernel.syscall import syscall
from ..resources.memory.mapping import Mapping
from ..tracee.calls import Call, Out
from ..tracee.tracee import Tracee
from .state import TrackingState
from .tracker import Contents, Pagemap

NAME = "uffd_wp"
REGISTERED = "uw"
"""The VmFlag of a mapping that is registered for write-protection."""
_LINK = "anon_inode:[userfaultfd]"
_INITIALIZED = 1 << 31  # fs/userfaultfd.c, UFFD_FEATURE_INITIALIZED: the handshake is done
_HIGHEST_NUMBER = 1000
"""The tracker's descriptor gets a number from here downwards: out of the way of a program that counts on low ones."""


class UffdTracker:
    """The tracker of one process, over our copy of its userfaultfd."""

    name = NAME

    def __init__(self, pid: int, uffd: int, number: int) -> None:
        self.pid = pid
        self.number = number
        """Of the userfaultfd in the process."""
        self.inode = os.fstat(uffd).st_ino
        self._uffd = uffd
        self._pagemap = Pagemap(pid)
        self._registered: Set[int] = set()

    def register(self, mappings: Sequence[Mapping]) -> None:
        """Register those of MAPPINGS that can be tracked and are not yet; also while the process runs."""
        for mapping in mappings:
            if mapping.trackable and (REGISTERED in mapping.area.vm_flags or self._register(mapping)):
                self._registered.add(mapping.start)

    def _register(self, mapping: Mapping) -> bool:
        try:
            userfaultfd.register(self._uffd, mapping.start, mapping.end)
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINVAL, errno.EPERM, errno.ENOMEM, errno.ENOENT, errno.ESRCH):
                return False  # not to be tracked, or gone meanwhile: it counts as changed
            raise
        return True

    def protect(self, mappings: Sequence[Mapping]) -> None:
        """Write-protect what holds content already, while the process runs, so that less is left to do in the stop.

        Only right when the next dump holds every page: what was changed before is not told any more.
        """
        for mapping in mappings:
            if mapping.start in self._registered:
                try:
                    self._pagemap.protect(mapping)
                except OSError as error:
                    if error.errno not in (errno.EPERM, errno.ESRCH):  # the mapping was replaced, or the process ended
                        raise

    def content(self, mapping: Mapping, reset: bool) -> Contents:
        """Return the content of MAPPING; with RESET its written pages are protected again in the same step."""
        tracked = mapping.start in self._registered
        dirty = pagemap.PAGE_IS_WRITTEN if tracked else 0
        return self._pagemap.content(mapping, dirty, protect=reset and tracked)

    def reset(self, mapping: Mapping) -> None:
        """Protect the pages of MAPPING again."""
        if mapping.start in self._registered:
            self._pagemap.protect(mapping)

    def settle(self) -> None:
        """Nothing is left to do: each scan protected what it told."""

    def close(self) -> None:
        """Close our copies; the userfaultfd goes on in the process."""
        self._pagemap.close()
        os.close(self._uffd)


def supported() -> bool:
    """Tell whether this kernel can track so."""
    try:
        uffd = syscall("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK | userfaultfd.UFFD_USER_MODE_ONLY)
    except OSError:
        return False
    try:
        userfaultfd.handshake(uffd)
    except OSError:
        return False
    finally:
        os.close(uffd)
    fd = pagemap.open_pagemap(os.getpid())
    try:
        return pagemap.has_scan(fd)
    finally:
        os.close(fd)


def install(leader: Tracee, left_over: Sequence[int] = ()) -> UffdTracker:
    """Make a userfaultfd in a stopped process and return the tracker over it; close those LEFT_OVER. Raises OSError, KernelError."""
    leader.batch([Call("close", (fd,)) for fd in left_over])
    number = leader.call("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK | userfaultfd.UFFD_USER_MODE_ONLY)
    limits = leader.batch([Call("prlimit64", (0, resource.RLIMIT_NOFILE, 0, Out(16)))])[0].outs[0]
    floor = min(_HIGHEST_NUMBER, struct.unpack_from("<Q", limits)[0] - 1)
    high = leader.call("fcntl", number, fcntl.F_DUPFD_CLOEXEC, floor)
    leader.call("close", number)
    tracker = attach(leader.pid, high)
    try:
        userfaultfd.handshake(tracker._uffd)
    except OSError as error:
        tracker.close()
        leader.call("close", high)
        raise KernelError(
            f"this kernel has no asynchronous write-protection ({error.strerror}); use tracker compare, or Linux 6.7"
        ) from error
    return tracker


def attach(pid: int, number: int) -> UffdTracker:
    """Return the tracker over the userfaultfd that is descriptor NUMBER of PID. Raises OSError."""
    with ProcessFiles(pid) as files:
        return UffdTracker(pid, files.copy(number), number)


def descriptors(pid: int, inodes: Set[int]) -> Iterator[int]:
    """Yield the numbers of the descriptors of PID that are userfaultfds with one of INODES."""
    if not inodes:
        return
    for fd in _userfaultfds(pid):
        with suppress(*procfs.GONE):  # it has ended, or closes this one just now
            if os.stat(f"/proc/{pid}/fd/{fd}").st_ino in inodes and _made_as_ours(fdinfo.fdinfo(pid, fd)):
                yield fd  # and no other that got the number of one that is no more


def inodes(pid: int) -> Set[int]:
    """Return the inodes of all userfaultfds of PID. PermissionError when we may not look into it."""
    found = set()
    for fd in _userfaultfds(pid):
        with suppress(*procfs.GONE):  # it has ended, or closes this one just now
            found.add(os.stat(f"/proc/{pid}/fd/{fd}").st_ino)
    return found


def unsaid(pid: int) -> List[int]:
    """Return the descriptors of PID that are such userfaultfds as we make, at whatever step of `install`."""
    found = []
    for fd in _userfaultfds(pid):
        with suppress(*procfs.GONE):  # it has ended, or closes this one just now
            if _made_as_ours(fdinfo.fdinfo(pid, fd)):
                found.append(fd)
    return found


def _userfaultfds(pid: int) -> List[int]:
    """Return the descriptors of PID that are userfaultfds; none of a process that has ended."""
    found: List[int] = []
    with suppress(*procfs.GONE):
        for fd in fdinfo.descriptors(pid):
            with suppress(*procfs.GONE):  # a running task closes others just now
                if os.readlink(f"/proc/{pid}/fd/{fd}") == _LINK:
                    found.append(fd)
    return found


def _made_as_ours(info: fdinfo.FdInfo) -> bool:
    """Tell whether a userfaultfd has our flags, and the features we want, or none yet (fdinfo "API: aa:FEATURES:…", in hexadecimal)."""
    features = int(info.values["API"].split(":")[1], 16)
    return bool(info.cloexec and info.flags & os.O_NONBLOCK) and features & ~_INITIALIZED in (0, userfaultfd.WANTED)


def find(pid: int, state: Optional[TrackingState]) -> Optional[UffdTracker]:
    """Return the tracker that STATE tells of, None when the process has closed it or executed another program."""
    if state is None or state.tracker != NAME:
        return None
    try:
        tracker = attach(pid, state.uffd)
    except OSError:
        return None
    if tracker.inode != state.uffd_inode:
        tracker.close()
        return None
    return tracker
