# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the root of a process tree by what an operator knows of it: PID, pid file, name, systemd unit or cgroup."""

from __future__ import annotations

import os
import subprocess
from typing import Callable
from collections.abc import Mapping, Sequence

from .errors import TargetError, UsageError
from .kernel import procfs
from .kernel.procfs import GONE
from .target import ancestors

_SHOWN = 10
"""How many of the processes found a message names."""


def find(
    pid: int | None = None,
    pid_file: str | None = None,
    name: str | None = None,
    systemd_unit: str | None = None,
    cgroup: str | None = None,
) -> int:
    """Return the PID of the one process that the argument given names.

    A name is that of the command (comm) or the last part of the path that it was started by (argv[0]).
    A unit is its main process. A cgroup, a path below any cgroup mount or one beginning with such a mount, is the root
    of all the processes in it and below it. Where several processes fit and one is the ancestor of all the others, it is that one.

    Raises UsageError unless exactly one argument is given; TargetError when no process fits, or several do.
    """
    given = {"pid": pid, "pid_file": pid_file, "name": name, "systemd_unit": systemd_unit, "cgroup": cgroup}
    ways = [way for way, value in given.items() if value is not None]
    if len(ways) != 1:
        raise UsageError(f"exactly one of {', '.join(given)} names the process, not {' and '.join(ways) or 'none'}; give one")
    finders: Mapping[str, Callable[..., int]] = {
        "pid": _by_pid,
        "pid_file": _by_pid_file,
        "name": _by_name,
        "systemd_unit": _by_unit,
        "cgroup": _by_cgroup,
    }
    return finders[ways[0]](given[ways[0]])


def _by_pid(pid: int) -> int:
    if pid <= 0 or not os.path.exists(f"/proc/{pid}"):
        raise TargetError(f"process {pid} does not exist; name one that runs")
    return pid


def _by_pid_file(path: str) -> int:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.readline().strip()
    except OSError as error:
        raise TargetError(f"pid file {path} cannot be read: {error.strerror}; start the service, or name another file") from error
    if not text.isdigit() or not int(text):
        raise TargetError(f"pid file {path} holds {text!r}, which is not a PID; name another file")
    if not os.path.exists(f"/proc/{int(text)}"):
        raise TargetError(f"pid file {path} names process {int(text)}, which does not exist; start the service, or name another file")
    return int(text)


def _by_name(name: str) -> int:
    excluded = ancestors(os.getpid())
    found = [pid for pid, comm in _processes().items() if pid not in excluded and name in (comm, _program(pid))]
    return _root(found, f"is called {name}")


def _by_unit(unit: str) -> int:
    properties = _unit_properties(unit)
    if properties.get("LoadState") == "not-found":
        raise TargetError(f"systemd knows no unit {unit}; `systemctl list-units` lists them")
    main = int(properties.get("MainPID") or 0)
    if main:
        return main
    if properties.get("ControlGroup"):
        return _by_cgroup(properties["ControlGroup"])
    raise TargetError(f"unit {unit} has no process, it is {properties.get('ActiveState', 'unknown')}; start it first")


def _unit_properties(unit: str) -> dict[str, str]:
    command = ["systemctl", "show", "--property=MainPID,ControlGroup,LoadState,ActiveState", "--", unit]
    try:
        shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise TargetError(
            f"unit {unit} cannot be looked up, systemctl cannot be run ({error.strerror}); name the process by its PID"
        ) from error
    if shown.returncode:
        why = shown.stderr.strip().splitlines()
        reason = why[0].rstrip(".") if why else f"systemctl ended with status {shown.returncode}"
        raise TargetError(f"unit {unit} cannot be looked up: {reason}; name the process by its PID")
    return dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)


def _by_cgroup(cgroup: str) -> int:
    living = _processes()
    return _root([pid for pid in _members(_cgroup_directory(cgroup)) if pid in living], f"is in cgroup {cgroup}")


def _cgroup_directory(cgroup: str) -> str:
    """Return the directory of CGROUP: a path of its own, or below one of the mounts, those of version 2 first."""
    mounts = _cgroup_mounts()
    candidates = [cgroup] if any(os.path.normpath(cgroup).startswith(mount) for mount in mounts) else []
    candidates += [os.path.join(mount, cgroup.lstrip("/")) for mount in mounts]
    for candidate in candidates:
        if os.path.exists(os.path.join(candidate, "cgroup.procs")):
            return candidate
    raise TargetError(f"cgroup {cgroup} does not exist; `cat /proc/PID/cgroup` shows that of a process")


def _cgroup_mounts() -> list[str]:
    """Return where cgroup hierarchies are mounted, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found: list[tuple[bool, str]] = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mount, _dash, filesystem = line.partition(" - ")
            kind = filesystem.split(" ", 1)[0]
            if kind in ("cgroup", "cgroup2"):
                found.append((kind == "cgroup", mount.split(" ")[4].replace("\\040", " ")))
    return [path for _legacy, path in sorted(found)]


def _members(directory: str) -> list[int]:
    """Return the processes in the cgroup at DIRECTORY and in those below it."""
    pids = []
    for path, _folders, _files in os.walk(directory):
        try:
            with open(os.path.join(path, "cgroup.procs"), encoding="ascii") as lines:
                pids += [int(line) for line in lines]
        except OSError:  # it was removed meanwhile, or it is threaded and its processes are listed above it
            continue
    return pids


def _processes() -> dict[int, str]:
    """Return the living processes of user space that we see, by PID, with their comm."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = procfs.stat(int(entry))
            except GONE:
                continue
            if stat.state != "Z" and not stat.flags & procfs.PF_KTHREAD:
                found[stat.pid] = stat.comm
    return found


def _program(pid: int) -> str:
    """Return the last part of the path that PID was started by; empty when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.path.basename(os.fsdecode(file.read().split(b"\0", 1)[0]))
    except GONE:
        return ""


def _root(pids: Sequence[int], fits: str) -> int:
    """Return the one of PIDS that is an ancestor of all the others. FITS says what they have in common."""
    if not pids:
        raise TargetError(f"no process {fits}; start it, or name another one")
    roots = [pid for pid in pids if not set(ancestors(pid)[1:]) & set(pids)]
    if len(roots) == 1:
        return roots[0]
    listed = ", ".join(map(str, sorted(roots)[:_SHOWN])) + (", …" if len(roots) > _SHOWN else "")
    raise TargetError(f"more than one process {fits}: {listed}; name one by its PID")
