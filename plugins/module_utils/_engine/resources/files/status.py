# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Status flags of open files, and the process that gets the signals of one (fcntl(2); CRIU's fown_entry)."""

from __future__ import annotations

import fcntl
import os
import platform
import struct

from ...images.schema import message
from .kind import Entry, OpenFile, Stub

F_SETSIG = 10
F_GETSIG = 11
F_SETOWN_EX = 15
F_GETOWN_EX = 16
F_GETOWNER_UIDS = 17
O_LARGEFILE = {"aarch64": 0o400000}.get(platform.machine(), 0o100000)
"""As the kernel keeps it in f_flags; Python's os.O_LARGEFILE is the C library's, which is 0 on 64-bit machines."""
O_TMPFILE_BIT = 0o20000000
"""__O_TMPFILE of asm-generic/fcntl.h, without O_DIRECTORY."""

_OWNER = struct.Struct("=ii")
_OWNER_UIDS = struct.Struct("=II")
_SETTABLE = os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_NOATIME
"""What F_SETFL changes, but O_ASYNC, which must be set by the task: it notes the number of the descriptor."""


def read_owner(file: OpenFile) -> Entry:
    """Return the fown_entry of FILE. OSError when the kernel does not tell (F_GETOWNER_UIDS needs CONFIG_CHECKPOINT_RESTORE)."""
    owner = message("fown_entry")(uid=0, euid=0, signum=0, pid_type=0, pid=0)
    if file.flags & os.O_PATH:
        return owner
    owner.signum = fcntl.fcntl(file.local, F_GETSIG)
    kind, pid = _OWNER.unpack(fcntl.fcntl(file.local, F_GETOWN_EX, bytes(_OWNER.size)))
    if pid:
        owner.pid_type, owner.pid = kind, pid
        owner.uid, owner.euid = _OWNER_UIDS.unpack(fcntl.fcntl(file.local, F_GETOWNER_UIDS, bytes(_OWNER_UIDS.size)))
    return owner


def set_flags(local: int, flags: int) -> None:
    """Give our descriptor LOCAL those of the status FLAGS that can be set after opening."""
    fcntl.fcntl(local, fcntl.F_SETFL, flags & _SETTABLE)


def for_open(flags: int) -> int:
    """Return status FLAGS of an open file as open(2) wants them to open it again without making anything."""
    if flags & O_TMPFILE_BIT:
        flags &= ~(O_TMPFILE_BIT | os.O_DIRECTORY)
    return flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | fcntl.FASYNC) | os.O_CLOEXEC | os.O_NOCTTY


def open_again(local: int) -> int:
    """Open the file of our descriptor LOCAL for reading, whatever that one is for. Its access time stays as it is where it is ours."""
    path = f"/proc/self/fd/{local}"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOATIME)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def set_owner(stub: Stub, fd: int, flags: int, owner: Entry) -> None:
    """Have the task set who gets the signals of its FD. The task runs with uid 0 and is given it back."""
    if owner.signum:
        stub.call("fcntl", fd, F_SETSIG, owner.signum)
    if owner.pid:
        as_another = bool(owner.uid or owner.euid)
        if as_another:
            stub.call("setresuid", owner.uid, owner.euid, 0)
        try:
            stub.call("fcntl", fd, F_SETOWN_EX, _OWNER.pack(owner.pid_type, owner.pid))
        finally:
            if as_another:
                stub.call("setresuid", 0, 0, 0)
    if flags & fcntl.FASYNC:
        stub.call("fcntl", fd, fcntl.F_SETFL, flags & (_SETTABLE | fcntl.FASYNC))
