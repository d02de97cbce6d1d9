# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of files that cannot be carried, each by its name and with what to do about it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from ...errors import Obstacle
from .kind import OpenFile
from .socket_options import domain

_SERIAL = "a serial line"
TTY_MAJORS = {2: "a BSD pseudo-terminal", 3: "a BSD pseudo-terminal", 4: _SERIAL, 5: "a terminal", 188: _SERIAL, 204: _SERIAL}
"""Documentation/admin-guide/devices.txt."""
SOCKET_FAMILIES = {
    **{21: "RDS", 24: "PPP", 29: "CAN", 30: "TIPC", 31: "Bluetooth"},
    **{38: "kernel cryptography", 40: "vsock", 41: "KCM", 43: "SMC", 44: "XDP"},
}
"""linux/socket.h."""

_REDIRECT = "start the program with its input and output redirected, for example: setsid PROGRAM </dev/null >LOG 2>&1"
_CLOSE = "have the program close it before the dump"
_ANONYMOUS = {
    "[io_uring]": ("an io_uring instance, whose rings the kernel does not give out", "run the program without io_uring"),
    "[userfaultfd]": ("a userfaultfd of the program's own", _CLOSE),
    "[perf_event]": ("a performance counter", "stop profiling the program"),
    "[fscontext]": ("a filesystem that is being configured", _CLOSE),
    "[landlock-ruleset]": ("a Landlock ruleset", _CLOSE),
    "bpf-map": ("a BPF map", _CLOSE),
    "bpf-prog": ("a BPF program", _CLOSE),
    "bpf_link": ("a BPF link", _CLOSE),
    "seccomp notify": ("a seccomp listener", "dump the supervised tree without its supervisor"),
    "kvm-vm": ("a virtual machine", "save the machine's state with its own tools"),
    "kvm-vcpu:0": ("a virtual machine", "save the machine's state with its own tools"),
}
_MOUNTED_NOWHERE: Mapping[str, tuple[str, str]] = {
    "/secretmem": ("secret memory, which cannot be read", "run the program without memfd_secret"),
    "/SYSV": ("a System V shared memory segment", _CLOSE),
}


def unsupported(file: OpenFile) -> Obstacle:
    """Return the obstacle that FILE, which no kind matches, is."""
    why, remedy = _reason(file)
    return file.obstacle(why, remedy)


def _reason(file: OpenFile) -> tuple[str, str]:
    mode = file.stat.st_mode
    if stat.S_ISCHR(mode):
        major, minor = os.major(file.stat.st_rdev), os.minor(file.stat.st_rdev)
        if major in TTY_MAJORS:
            return f"{TTY_MAJORS[major]}; such terminals are not carried", _REDIRECT
        return f"character device {major}:{minor}, whose state is unknown", _CLOSE
    if stat.S_ISBLK(mode):
        return f"block device {os.major(file.stat.st_rdev)}:{os.minor(file.stat.st_rdev)}", _CLOSE
    if stat.S_ISSOCK(mode):
        family = domain(file.local) if file.link.startswith("socket:[") else 0
        return f"a socket of {SOCKET_FAMILIES.get(family, f'family {family}')}, which is not carried", _CLOSE
    if file.link.startswith("anon_inode:"):
        name = file.link[len("anon_inode:") :]
        return _ANONYMOUS.get(name, (f"a kernel object ({name}) that is not carried", _CLOSE))
    for prefix, reason in _MOUNTED_NOWHERE.items():
        if file.link.startswith(prefix):
            return reason
    return "a file of a kind that is not known", _CLOSE
