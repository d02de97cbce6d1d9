# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which control groups tasks are in (cgroups(7)), version 1 and 2; what these are is in cgroup_dirs.py.

CRIU images: thread_core_entry.cg_set names a set of cgroup.img, inventory_entry.root_cg_set that of the dump's maker. A task that
was in a cgroup of the dump's maker is left in that of the restore's: so is all of a tree that shares all its cgroups with us.
"""

from __future__ import annotations

import os
from typing import AbstractSet, Any, Dict, Iterable, List, Sequence, Tuple

from ..errors import Obstacle, RestoreError
from ..images.schema import message
from ..kernel import cgroups
from ..kernel.cgroups import Member
from ..tracee.tracee import Tracee
from . import cgroup_dirs
from .cgroup_roots import NO_ROOTS, Roots

AUTO, NONE, PROPS, SOFT, FULL, STRICT, IGNORE = "auto", "none", "props", "soft", "full", "strict", "ignore"
"""How cgroups are managed. As CRIU has it: they must exist, and are left as they are or get their properties; they are made where
missing, and those that exist are left or get their properties too; they must not exist; or they do not matter.
AUTO is SOFT, but warns of what it cannot do."""
_MUST_EXIST = (NONE, PROPS)
OWN_SET = 1
"""The number of the set of the dump's maker; inventory_entry.root_cg_set is the same."""
Set = Tuple[Member, ...]


class SetTable:
    """The sets of cgroups of a dump, each once."""

    def __init__(self, mode: str, roots: Roots = NO_ROOTS, controllers: Sequence[str] = (), yard: str = "") -> None:
        """CONTROLLERS: those to be dumped, all if empty. YARD: where all hierarchies are mounted."""
        self._yard = yard
        self._mode = mode
        self._roots = roots
        self._controllers = frozenset(controllers)
        self._known: Dict[Set, int] = {self._wanted(cgroups.of_thread(os.getpid(), os.getpid())): OWN_SET}

    def number(self, found: Set) -> int:
        """Return the number of the set FOUND."""
        return OWN_SET if self._mode == IGNORE else self._known.setdefault(self._wanted(found), len(self._known) + 1)

    def _wanted(self, found: Set) -> Set:
        if not self._controllers:
            return found
        return tuple(one for one in found if self._controllers.intersection(one.hierarchy.split(",")))

    def write(self, images: Any) -> None:
        """Write the image, unless all tasks share our cgroups. Raises ImagesError."""
        if len(self._known) == 1:
            return
        entry = message("cgroup_entry")()
        for found, number in self._known.items():
            entry.sets.add(id=number).ctls.extend(message("cg_member_entry")(name=one.hierarchy, path=one.path) for one in found)
        mounted = cgroups.mounts(self._yard)
        own = next(found for found, number in self._known.items() if number == OWN_SET)
        for hierarchy in dict.fromkeys(one.hierarchy for found in self._known for one in found):
            used = {one.path for found in self._known for one in found if one.hierarchy == hierarchy and one not in own}
            dirs = [cgroup_dirs.describe(hierarchy, path, mounted) for path in self._heads(hierarchy, used)]
            entry.controllers.add(cnames=hierarchy.split(","), dirs=dirs, is_threaded=_threaded(hierarchy, dirs))
        images.write("cgroup", [entry])

    def _heads(self, hierarchy: str, used: AbstractSet[str]) -> List[str]:
        """Return the cgroups USED of HIERARCHY without those below others, or the root that was asked for."""
        root = self._roots.of(hierarchy)
        if root and any(_is_below(path, root) for path in used):
            used = {path for path in used if not _is_below(path, root)} | {root}
        return sorted(path for path in used if path != "/" and not any(path != other and _is_below(path, other) for other in used))


def _is_below(path: str, other: str) -> bool:
    return path == other or path.startswith(other.rstrip("/") + "/")


def _threaded(hierarchy: str, dirs: Iterable[Any]) -> bool:
    """Tell whether threads of one process may be in different ones, as CRIU tells it."""
    below = [child for one in dirs for child in (one, *one.children)]
    types = [prop.value for one in below for prop in one.properties if prop.name == "cgroup.type"]
    return hierarchy != cgroups.VERSION_2 or "threaded" in types


class CgroupsRestore:
    """The cgroups of a dump on the way to its tasks. A context manager: what was made is taken back after an error."""

    def __init__(self, images: Any, mode: str, roots: Roots = NO_ROOTS, yard: str = "") -> None:
        self._yard = yard
        self._images = images
        self._mode = mode
        self._roots = roots
        self._dirs: Dict[str, Sequence[Any]] = {}
        self._sets: Dict[int, Set] = {}
        self._own = OWN_SET
        self._mounts: Dict[str, cgroups.Mount] = {}
        self._builder = cgroup_dirs.Builder(mode in (AUTO, SOFT), self._complain)
        self.warnings: Dict[str, None] = {}
        """What the caller should know, each once."""

    def __enter__(self) -> CgroupsRestore:
        """Read the images. Raises ImagesError."""
        if self._mode != IGNORE and self._images.has("cgroup"):
            image = self._images.read_one("cgroup")
            self._roots.move(image)
            self._sets = {entry.id: tuple(Member(one.name, one.path) for one in entry.ctls) for entry in image.sets}
            self._dirs = {",".join(one.cnames): one.dirs for one in image.controllers}
            self._own = self._images.read_one("inventory").root_cg_set
            self._mounts = cgroups.mounts(self._yard)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._builder.keep()
        else:
            self._builder.take_back()

    def check(self, pid: int, core: Any) -> List[Obstacle]:
        """Return the cgroups of process PID that are missing, where they must exist, or that exist, where they must not."""
        if self._mode not in (*_MUST_EXIST, STRICT):
            return []
        there = {one: os.path.isdir(cgroups.directory(one, self._mounts) or "/dev/null") for one in self._foreign(core)}
        why, remedy = "it does not exist here", "make it, or use --manage-cgroups=ignore"
        if self._mode == STRICT:
            why, remedy = "it exists here", "remove it, or use --manage-cgroups=full"
        wrong = [one for one, exists in there.items() if exists == (self._mode == STRICT)]
        return [Obstacle(pid, f"cgroup {one.hierarchy or 'v2'}:{one.path}", why, remedy) for one in wrong]

    def prepare(self, cores: Iterable[Any]) -> None:
        """Make the cgroups that the threads of CORES were in, and set their properties. Raises RestoreError."""
        if self._mode == NONE:
            return
        needed = {one: None for core in cores for one in self._foreign(core)}
        for hierarchy, dirs in self._dirs.items():
            for entry in dirs:
                head = "/" + entry.dir_name.strip("/")
                if any(one.hierarchy == hierarchy and _is_below(one.path, head) for one in needed):
                    self._build(Member(hierarchy, head), entry)

    def _build(self, head: Member, entry: Any) -> None:
        path = cgroups.directory(head, self._mounts)
        if path:  # else the one who is to join it complains
            try:
                self._builder.build(path, head.hierarchy, entry)
            except OSError as error:
                self._complain(f"{path} cannot be made ({error.strerror})")

    def together(self, cores: Sequence[Any]) -> bool:
        """Tell whether the processes of CORES are all in the same cgroups."""
        return len({self._number(core) for core in cores}) <= 1

    def move_process(self, stub: Tracee, core: Any) -> None:
        """Put the process of STUB, with its one thread, where CORE says. Raises RestoreError."""
        now = cgroups.of_thread(stub.pid, stub.tid)
        for one in self._foreign(core):
            if one not in now:
                self._join(one, stub, cgroups.join_process)

    def move_threads(self, threads: Sequence[Tracee], cores: Sequence[Any]) -> None:
        """Put the THREADS that have other cgroups than their process, the first of them, where their CORES say. Raises RestoreError."""
        leader = self._number(cores[0])
        for thread, core in zip(threads[1:], cores[1:]):
            if self._number(core) not in (leader, 0):
                now = cgroups.of_thread(thread.pid, thread.tid)
                for one in self._foreign(core):
                    if one not in now:
                        self._join(one, thread, cgroups.join_thread)

    def _number(self, core: Any) -> int:
        """Return the number of a set; dumps of CRIU before 4.0 have it for the whole process only."""
        return int(core.thread_core.cg_set or core.tc.cg_set)

    def _foreign(self, core: Any) -> List[Member]:
        """Return the cgroups in CORE, a core_entry, that were not those of the dump's maker."""
        number = self._number(core)
        own = self._sets.get(self._own, ())
        return [] if number == self._own else [one for one in self._sets.get(number, ()) if one not in own]

    def _join(self, one: Member, thread: Tracee, join: Any) -> None:
        name = f"cgroup {one.hierarchy or 'v2'}:{one.path}"
        path = cgroups.directory(one, self._mounts)
        if not path:
            self._complain(f"{name} is not mounted here, so its processes are in the cgroup of the restore")
            return
        try:
            if self._mode not in _MUST_EXIST:
                self._builder.make(path, one.hierarchy)
            join(path, thread.tid)
        except FileNotFoundError:
            self._complain(f"{name} does not exist here, so its processes are in the cgroup of the restore")
        except OSError as error:
            self._complain(f"{name} cannot be joined ({error.strerror}), so its processes are in the cgroup of the restore")

    def _complain(self, what: str) -> None:
        if self._mode != AUTO:
            raise RestoreError(f"{what}; make it, or use --manage-cgroups=ignore")
        self.warnings[what] = None
