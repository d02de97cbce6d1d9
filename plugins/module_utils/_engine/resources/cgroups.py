# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which control groups tasks are in (cgroups(7)), version 1 and 2. Their limits belong to the machine and are not carried.

CRIU images: thread_core_entry.cg_set names a set of cgroup.img, inventory_entry.root_cg_set that of the dump's maker. A task that
was in a cgroup of the dump's maker is left in that of the restore's: so is all of a tree that shares all its cgroups with us.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Dict, List, Sequence, Tuple

from ..errors import Obstacle, RestoreError
from ..images.schema import message
from ..kernel import cgroups
from ..kernel.cgroups import Member
from ..tracee.tracee import Tracee

AUTO, NONE, SOFT, IGNORE = "auto", "none", "soft", "ignore"
"""How cgroups are managed: those that exist are joined; as CRIU has it, they must exist, are made where missing, or do not matter."""
OWN_SET = 1
"""The number of the set of the dump's maker; inventory_entry.root_cg_set is the same."""
Set = Tuple[Member, ...]


class SetTable:
    """The sets of cgroups of a dump, each once."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._known: Dict[Set, int] = {cgroups.of_thread(os.getpid(), os.getpid()): OWN_SET}

    def number(self, found: Set) -> int:
        """Return the number of the set FOUND."""
        return OWN_SET if self._mode == IGNORE else self._known.setdefault(found, len(self._known) + 1)

    def write(self, images: Any) -> None:
        """Write the image, unless all tasks share our cgroups. Raises ImagesError."""
        if len(self._known) == 1:
            return
        entry = message("cgroup_entry")()
        for found, number in self._known.items():
            entry.sets.add(id=number).ctls.extend(message("cg_member_entry")(name=one.hierarchy, path=one.path) for one in found)
        paths: Dict[str, Dict[str, None]] = {}
        for one in (one for found in self._known for one in found):
            paths.setdefault(one.hierarchy, {})[one.path] = None
        for hierarchy, used in paths.items():
            controller = entry.controllers.add(cnames=hierarchy.split(","))
            controller.dirs.extend(message("cgroup_dir_entry")(dir_name=path.strip("/")) for path in used if path != "/")
        images.write("cgroup", [entry])


class CgroupsRestore:
    """The cgroups of a dump on the way to its tasks. A context manager: what was made is taken back after an error."""

    def __init__(self, images: Any, mode: str) -> None:
        self._images = images
        self._mode = mode
        self._sets: Dict[int, Set] = {}
        self._own = OWN_SET
        self._mounts: Dict[str, cgroups.Mount] = {}
        self._made: List[str] = []
        self.warnings: Dict[str, None] = {}
        """What the caller should know, each once."""

    def __enter__(self) -> CgroupsRestore:
        """Read the images. Raises ImagesError."""
        if self._mode != IGNORE and self._images.has("cgroup"):
            for entry in self._images.read_one("cgroup").sets:
                self._sets[entry.id] = tuple(Member(one.name, one.path) for one in entry.ctls)
            self._own = self._images.read_one("inventory").root_cg_set
            self._mounts = cgroups.mounts()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        while self._made:
            path = self._made.pop()
            if kind is not None:
                with suppress(OSError):  # another process may have come to use it
                    os.rmdir(path)

    def check(self, pid: int, core: Any) -> List[Obstacle]:
        """Return the cgroups of process PID that are missing, where they must exist."""
        if self._mode != NONE:
            return []
        missing = [one for one in self._foreign(core) if not os.path.isdir(cgroups.directory(one, self._mounts) or "/dev/null")]
        remedy = "make it, or use --manage-cgroups=ignore"
        return [Obstacle(pid, f"cgroup {one.hierarchy or 'v2'}:{one.path}", "it does not exist here", remedy) for one in missing]

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
            self._complain(f"{name} is not mounted here")
            return
        try:
            if self._mode == SOFT:
                self._make(path, name)
            join(path, thread.tid)
        except FileNotFoundError:
            self._complain(f"{name} does not exist here")
        except OSError as error:
            self._complain(f"{name} cannot be joined ({error.strerror})")

    def _complain(self, what: str) -> None:
        if self._mode in (NONE, SOFT):
            raise RestoreError(f"{what}; make it, or use --manage-cgroups=ignore")
        self.warnings[f"{what}: its processes are in the cgroup of the restore instead"] = None

    def _make(self, path: str, name: str) -> None:
        missing = [path]
        while not os.path.isdir(missing[-1]):
            missing.append(os.path.dirname(missing[-1]))
        for one in reversed(missing[:-1]):
            os.mkdir(one)
            self._made.append(one)
            self.warnings[f"{name} was made anew, without the limits that it may have had"] = None
