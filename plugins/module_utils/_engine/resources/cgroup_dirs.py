# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The directories of control groups and their properties (cgroups(7)): cg_controller_entry.dirs of cgroup.img.

A dump has the cgroups of its tasks that its maker is not in, and all that is below them, each with the properties that CRIU
takes (its criu/cgroup-props.c), and with the limits of version 2. A restore makes those that are missing.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

from ..images.schema import message
from ..kernel import cgroups
from ..kernel.cgroups import VERSION_2

_OF_CONTROLLER: Dict[str, Tuple[str, ...]] = {
    "cpu": ("cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.rt_period_us", "cpu.rt_runtime_us"),
    "memory": (
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness", "memory.soft_limit_in_bytes",
        "memory.move_charge_at_immigrate", "memory.oom_control", "memory.use_hierarchy", "memory.kmem.limit_in_bytes",
        "memory.kmem.tcp.limit_in_bytes",
    ),
    "cpuset": (
        "cpuset.cpus", "cpuset.mems", "cpuset.memory_migrate", "cpuset.cpu_exclusive", "cpuset.mem_exclusive", "cpuset.mem_hardwall",
        "cpuset.memory_spread_page", "cpuset.memory_spread_slab", "cpuset.sched_load_balance", "cpuset.sched_relax_domain_level",
    ),
    "blkio": ("blkio.weight",),
    "net_cls": ("net_cls.classid",),
    "net_prio": ("net_prio.ifpriomap",),
    "pids": ("pids.max",),
    "devices": ("devices.list",),
    VERSION_2: (
        "cgroup.type", "cgroup.subtree_control", "cgroup.max.descendants", "cgroup.max.depth", "cgroup.freeze", "cpu.weight", "cpu.max",
        "cpuset.cpus", "cpuset.mems", "memory.min", "memory.low", "memory.high", "memory.max", "memory.swap.max", "memory.oom.group",
        "pids.max",
    ),
}  # fmt: skip
_LISTS = {VERSION_2: ("cgroup.procs", "cgroup.threads")}
_LISTS_1 = ("cgroup.procs", "tasks")
_COMMON_1 = ("cgroup.clone_children", "notify_on_release")
_FIRST = (
    "cgroup.type", "cpuset.cpus", "cpuset.mems", "devices.list", "memory.kmem.limit_in_bytes", "memory.swappiness", "memory.oom_control",
    "memory.use_hierarchy",
)  # fmt: skip
"""What is set in new directories only, and before all else: it may not be once a task is in them."""
_KEPT_OUT = (*_LISTS_1, "cgroup.threads", "freezer.state", "cgroup.freeze")
"""What says who is there, and whether they stand still: that is not set."""
_MODE = 0o7777


def describe(hierarchy: str, path: str, mounted: Dict[str, cgroups.Mount]) -> Any:
    """Return the cgroup_dir_entry of the cgroup at PATH of HIERARCHY, with all below it; with its name only where it cannot be seen."""
    directory = cgroups.directory(cgroups.Member(hierarchy, path), mounted)
    entry = message("cgroup_dir_entry")(dir_name=path.strip("/"))
    if directory:
        with suppress(FileNotFoundError):
            _fill(entry, directory, hierarchy)
    return entry


def _fill(entry: Any, directory: str, hierarchy: str) -> None:
    entry.dir_perms.CopyFrom(_permissions(directory))
    for name in (*_names(hierarchy), *_LISTS.get(hierarchy, _LISTS_1)):
        with suppress(OSError):  # this kernel, or this directory, does not have it
            path = os.path.join(directory, name)
            entry.properties.add(name=name, value="" if name in _KEPT_OUT[:3] else read(path), perms=_permissions(path))
    for below in sorted(one.name for one in os.scandir(directory) if one.is_dir(follow_symlinks=False)):
        with suppress(FileNotFoundError):  # it was removed meanwhile
            child = message("cgroup_dir_entry")(dir_name=below)
            _fill(child, os.path.join(directory, below), hierarchy)
            entry.children.append(child)


def _names(hierarchy: str) -> Iterator[str]:
    for controller in hierarchy.split(","):
        yield from _OF_CONTROLLER.get(controller, ())
    yield from () if hierarchy == VERSION_2 else _COMMON_1


def _permissions(path: str) -> Any:
    found = os.stat(path)
    return message("cgroup_perms")(mode=found.st_mode, uid=found.st_uid, gid=found.st_gid)


def read(path: str) -> str:
    """Return the value of the property at PATH, as CRIU has it in images. Raises OSError."""
    with open(path, encoding="utf-8") as file:
        value = file.read().rstrip("\n")
    if os.path.basename(path) == "memory.oom_control":
        return next((line.split()[1] for line in value.splitlines() if line.startswith("oom_kill_disable ")), "0")
    return value


def _write(path: str, value: str) -> None:
    """Set the property at PATH to VALUE, each kind in its own way. Raises OSError."""
    directory, name = os.path.split(path)
    if name == "devices.list":
        _put(os.path.join(directory, "devices.deny"), "a")
        path, lines = os.path.join(directory, "devices.allow"), value.splitlines()
    elif name == "net_prio.ifpriomap":
        known = {line.split()[0] for line in read(path).splitlines()}
        lines = [line for line in value.splitlines() if line.split()[0] in known]
    elif name == "cgroup.subtree_control":
        now, wanted = set(read(path).split()), set(value.split())
        lines = [" ".join([f"-{one}" for one in sorted(now - wanted)] + [f"+{one}" for one in sorted(wanted - now)])]
    else:
        lines = [value]
    for line in lines:
        _put(path, line)


def _put(path: str, line: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(line)


class Builder:
    """Makes directories and sets properties, and can take all of it back."""

    def __init__(self, only_new: bool, complain: Callable[[str], None]) -> None:
        """ONLY_NEW: leave what exists as it is. COMPLAIN is told what cannot be done; it may raise."""
        self._only_new = only_new
        self._complain = complain
        self._undo = ExitStack()
        self._made: Dict[str, None] = {}

    def keep(self) -> None:
        """Let all stay as it is now."""
        self._undo.pop_all()

    def take_back(self) -> None:
        """Make all as it was, as far as others do not use it by now."""
        self._undo.close()

    def build(self, directory: str, hierarchy: str, entry: Any) -> None:
        """Make DIRECTORY and all below it as ENTRY, a cgroup_dir_entry, says. Raises OSError, and what COMPLAIN raises."""
        new = not os.path.isdir(directory)
        if new:
            self.make(directory, hierarchy, _controllers(entry))
            if entry.HasField("dir_perms"):
                _give(directory, entry.dir_perms)
        if new or not self._only_new:
            for one in sorted(entry.properties, key=lambda one: one.name not in _FIRST):
                if new or one.name not in _FIRST:
                    self._set(directory, one, new)
        for child in entry.children:
            self.build(os.path.join(directory, child.dir_name), hierarchy, child)

    def make(self, directory: str, hierarchy: str, controllers: Sequence[str] = ()) -> None:
        """Make DIRECTORY and what is missing above it, with CONTROLLERS turned on as far as it is ours (version 2). Raises OSError."""
        missing: List[str] = []
        while not os.path.isdir(directory):
            missing.append(directory)
            directory = os.path.dirname(directory)
        for path in reversed(missing):
            if os.path.dirname(path) in self._made and hierarchy == VERSION_2:
                self._turn_on(os.path.dirname(path), controllers)
            os.mkdir(path)
            self._undo.callback(_remove, path)
            self._made[path] = None
            if "cpuset" in hierarchy.split(","):  # no task may join one without
                for name in ("cpuset.cpus", "cpuset.mems"):
                    _put(os.path.join(path, name), read(os.path.join(os.path.dirname(path), name)))

    def _turn_on(self, directory: str, controllers: Iterable[str]) -> None:
        for one in controllers:
            with suppress(OSError):  # the property that is missing then is complained of
                _put(os.path.join(directory, "cgroup.subtree_control"), f"+{one}")

    def _set(self, directory: str, entry: Any, new: bool) -> None:
        """Set one property; where it says already what it should, nothing is written."""
        path = os.path.join(directory, entry.name)
        try:
            if new and entry.HasField("perms"):
                _give(path, entry.perms)
            if entry.name in _KEPT_OUT or entry.name == "cgroup.type" and entry.value != "threaded":
                return
            before = read(path)
            if before != entry.value:
                if not new:
                    self._undo.callback(_restore, path, before)
                _write(path, entry.value)
        except OSError as error:
            self._complain(f"{path} cannot be set to {entry.value!r} ({error.strerror})")


def _controllers(entry: Any) -> List[str]:
    """Return the controllers of version 2 that the properties of ENTRY and of what is below it need."""
    found = {one.name.split(".")[0] for one in entry.properties}
    for child in entry.children:
        found |= set(_controllers(child))
    return sorted(found & {"cpu", "cpuset", "memory", "pids", "io"})


def _give(path: str, permissions: Any) -> None:
    found = os.stat(path)
    if (found.st_uid, found.st_gid) != (permissions.uid, permissions.gid):
        os.chown(path, permissions.uid, permissions.gid)
    if stat.S_IMODE(found.st_mode) != permissions.mode & _MODE:
        os.chmod(path, permissions.mode & _MODE)


def _remove(path: str) -> None:
    with suppress(OSError):  # another process may have come to use it
        os.rmdir(path)


def _restore(path: str, value: str) -> None:
    with suppress(OSError):
        _write(path, value)
