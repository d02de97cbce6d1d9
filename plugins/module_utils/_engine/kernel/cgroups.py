# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Control groups, version 1 and 2 (cgroups(7)): which ones a thread is in, and where their directories are."""

from __future__ import annotations

import os
from typing import Dict, NamedTuple, Tuple

from . import procfs

VERSION_2 = ""
"""The name of the hierarchy of version 2."""
_ESCAPES = ("\\040", " "), ("\\011", "\t"), ("\\134", "\\")  # proc_pid_mountinfo(5)


class Member(NamedTuple):
    """A cgroup of a thread."""

    hierarchy: str
    """As /proc/PID/cgroup names it: controllers ("cpu,cpuacct"), "name=systemd", or VERSION_2."""
    path: str
    """From the root of the hierarchy, as the cgroup namespace shows it."""


class Mount(NamedTuple):
    """A mounted hierarchy."""

    directory: str
    root: str
    """The cgroup that is mounted there."""


def of_thread(pid: int, tid: int) -> Tuple[Member, ...]:
    """Return the cgroups of thread TID of PID, sorted by hierarchy. Raises OSError."""
    rows = (line.split(":", 2) for line in procfs.lines(f"/proc/{pid}/task/{tid}/cgroup"))
    return tuple(sorted(Member(hierarchy, path) for _number, hierarchy, path in rows))


def mounts(yard: str = "") -> Dict[str, Mount]:
    """Return where each hierarchy is mounted, by its name; if YARD is given, only what is mounted below that directory."""
    above = os.path.join(os.path.realpath(yard), "") if yard else "/"
    found: Dict[str, Mount] = {}
    for line in procfs.lines("/proc/self/mountinfo"):
        place, _dash, filesystem = line.partition(" - ")
        kind, _source, options = filesystem.split(" ", 2)
        root, directory = (_plain(word) for word in place.split(" ")[3:5])
        if not directory.startswith(above):
            continue
        if kind == "cgroup2":
            found.setdefault(VERSION_2, Mount(directory, root))
        elif kind == "cgroup":
            words = [word for word in options.split(",") if word not in ("rw", "ro", "xattr", "noprefix", "clone_children")]
            named = [word for word in words if word.startswith("name=")]
            controllers = [word for word in words if "=" not in word]
            found.setdefault(",".join(controllers + named), Mount(directory, root))
    return found


def _plain(word: str) -> str:
    for escape, character in _ESCAPES:
        word = word.replace(escape, character)
    return word


def directory(member: Member, mounted: Dict[str, Mount]) -> str:
    """Return the directory of MEMBER, whether it exists or not; empty where its hierarchy is not MOUNTED as far as that."""
    mount = mounted.get(member.hierarchy)
    if mount is None:
        return ""
    inside = os.path.relpath(member.path, mount.root)
    return "" if inside.split("/")[0] == ".." else os.path.normpath(os.path.join(mount.directory, inside))


def join_process(path: str, pid: int) -> None:
    """Put process PID with all its threads into the cgroup at PATH. Raises OSError."""
    _write(os.path.join(path, "cgroup.procs"), pid)


def join_thread(path: str, tid: int) -> None:
    """Put thread TID into the cgroup at PATH, of version 1 or of a threaded kind. Raises OSError."""
    tasks = os.path.join(path, "tasks")
    _write(tasks if os.path.exists(tasks) else os.path.join(path, "cgroup.threads"), tid)


def _write(path: str, number: int) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(str(number))
