# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing and arming the trackers of a tree: which one tells what changed, and which one is left armed.

A tracker is believed only when it counts from the very dump that is the parent now; otherwise memory is compared with
the parent's pages. What is remembered of a process is forgotten before its tracker is reset.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from ..errors import KernelError
from ..images.chain import Chain
from ..kernel import procfs
from ..options import DumpOptions
from ..resources.memory.mapping import Mapping, survey, survey_again
from ..tracee.freeze import FrozenTree, Task
from . import compare, soft_dirty, state, uffd_wp
from .state import TrackingState
from .tidy import tidy
from .tracker import NoTracker, Tracker

NONE = "none"
_INTENT = TrackingState("", uffd_wp.NAME)
"""What is remembered while a userfaultfd is being made: there may be one that nobody has taken note of yet."""


@dataclass(frozen=True)
class Tracked:
    """How the memory of one process is told in this dump."""

    tracker: Tracker
    telling: str
    """Who tells the changed pages: uffd_wp, soft_dirty, compare, or none when all pages are dumped."""
    assumed: bool
    """The VmFlags of the mappings are those of a moment before: `same_flags` must confirm them."""


class Trackers:
    """The trackers of a tree during one dump. A context manager."""

    def __init__(self, options: DumpOptions, parent: Optional[Chain], log: logging.Logger, assumes: bool = False) -> None:
        """ASSUMES: that VmFlags seen before the stop still hold may be confirmed later, as always when the tree goes on."""
        self._options = options
        self._assumes = assumes
        self._parent = parent
        self._log = log
        self._states: Dict[int, Optional[TrackingState]] = {}
        self._tracked: Dict[int, Tracked] = {}
        self._uffds: Dict[int, uffd_wp.UffdTracker] = {}
        self._looked: Dict[int, List[Mapping]] = {}
        self._surveyed: Dict[int, List[Mapping]] = {}
        self._inodes: Optional[Set[int]] = None
        self._sends = options.page_server is not None
        self.arming = NONE
        """The tracker that this dump leaves armed."""
        self.warnings: List[str] = []

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exc: object) -> None:
        for tracked in self._tracked.values():
            if tracked.tracker not in self._uffds.values():
                tracked.tracker.close()
        for tracker in self._uffds.values():
            tracker.close()

    def choose(self) -> None:
        """Choose the tracker to arm. Raises KernelError when the one asked for does not work here. Touches nothing."""
        if self._options.track_mem:
            self.arming = armable(self._options.tracker)
            if self.arming == NONE and self._options.tracker == "auto":
                self.warnings.append("this kernel can tell no changed pages: the next dump will compare memory with this one")

    def look(self, pids: Sequence[int]) -> None:
        """Find the trackers that PIDS have already. Touches nothing."""
        for pid in pids:
            if pid not in self._states:
                self._states[pid] = found = state.load(pid)
                uffd = uffd_wp.find(pid, found)
                if uffd is not None:
                    self._uffds[pid] = uffd

    def survey(self, pid: int) -> List[Mapping]:
        """Return the mappings of PID, which runs: what was seen is of use again for `prepare`. Raises OSError."""
        self._looked[pid] = survey(pid)
        return self._looked[pid]

    def own_descriptors(self, pids: Sequence[int]) -> FrozenSet[Tuple[int, int]]:
        """Return (pid, fd) of the descriptors of PIDS that are ours: trackers, and copies that a forked child inherited."""
        if self._inodes is None:  # read once, before the stop: there is one for every process since boot
            self._inodes = state.known_inodes()
        ours = self._inodes | {uffd.inode for uffd in self._uffds.values()}
        known = [(pid, fd) for pid in pids for fd in uffd_wp.descriptors(pid, ours)]
        return frozenset(known + [(pid, fd) for pid in pids for fd in self._left_over(pid)])

    def _left_over(self, pid: int) -> List[int]:
        """Return the descriptors of PID that an engine made which was killed before it could say so."""
        found = self._states.get(pid)
        return uffd_wp.unsaid(pid) if found == _INTENT else []

    def prepare(self, pids: Sequence[int]) -> None:
        """Do before the stop what need not be done in it: make the userfaultfds, register and protect the memory."""
        if self.arming != uffd_wp.NAME:
            for pid in self._uffds if self._assumes else ():
                with suppress(*procfs.GONE):
                    self._surveyed[pid] = [mapping.unregistered() for mapping in survey(pid)]
            return
        tidy()
        if any(pid not in self._uffds for pid in pids):
            with FrozenTree(self._options.tree, self._options.timeout) as tree:
                for task in tree.tasks:
                    self.install(task)
        for pid, uffd in self._uffds.items():
            try:
                mappings = survey_again(pid, self._looked[pid]) or survey(pid) if pid in self._looked else survey(pid)
            except procfs.GONE:
                continue  # it ended meanwhile
            uffd.register(mappings)
            self._surveyed[pid] = [mapping.unregistered() for mapping in mappings]
            if self._telling(pid) != uffd_wp.NAME:
                state.disclaim(pid)
                uffd.protect(mappings)

    def install(self, task: Task) -> None:
        """Give a stopped TASK the userfaultfd that it needs, if it has none, and leave nothing else in it."""
        if self.arming == uffd_wp.NAME and task.pid not in self._uffds:
            self.look([task.pid])
        if self.arming != uffd_wp.NAME or task.pid in self._uffds:
            task.release_scratch()
            return
        try:
            left_over = self._left_over(task.pid)
            state.save(task.pid, _INTENT)
            self._uffds[task.pid] = uffd = uffd_wp.install(task.leader, left_over)
            # What was claimed of a lost one is void.
            self._states[task.pid] = fresh = TrackingState("", uffd_wp.NAME, uffd.number, uffd.inode)
            state.save(task.pid, fresh)
        except OSError as error:
            state.forget(task.pid)
            self.warnings.append(
                f"process {task.pid} takes no userfaultfd ({error.strerror}): its next dump will compare memory with this one"
            )
        finally:
            task.release_scratch()

    def take(self, pid: int) -> Tuple[List[Mapping], Tracked]:
        """Return the mappings of PID and how its memory is told; its claim is taken back if it is to be reset."""
        self.look([pid])
        telling = self._telling(pid)
        known = survey_again(pid, self._surveyed[pid]) if pid in self._surveyed and (self._assumes or self._options.leave_running) else None
        mappings = known or survey(pid)
        if pid in self._uffds:
            self._uffds[pid].register(mappings)
        if self.arming != NONE:
            state.disclaim(pid)
        self._tracked[pid] = tracked = Tracked(self._tracker(pid, telling), telling, known is not None)
        return mappings, tracked

    def _tracker(self, pid: int, telling: str) -> Tracker:
        if uffd_wp.NAME in (telling, self.arming) and pid in self._uffds:
            return self._uffds[pid]
        if soft_dirty.NAME in (telling, self.arming):
            return soft_dirty.SoftDirtyTracker(pid)
        return NoTracker(pid)

    def _telling(self, pid: int) -> str:
        """Return who can tell what PID changed since the parent."""
        if self._parent is None or not (self._parent.top.covered(pid) if self._sends else self._parent.top.images.has(f"pagemap-{pid}")):
            return NONE
        found, wanted = self._states.get(pid), self._options.tracker
        claims = found is not None and bool(found.dump_id) and found.dump_id == self._parent.dump_id
        fits = found is not None and self.arming in (NONE, found.tracker)  # what arms another tracker can't ask this one
        if found is not None and claims and fits and wanted in ("auto", found.tracker):
            if found.tracker == uffd_wp.NAME and pid in self._uffds:
                return found.tracker
            if found.tracker == soft_dirty.NAME and soft_dirty.stands(pid, found.sentinel):
                return found.tracker
        return NONE if self._sends else compare.NAME  # what was sent is not here to be compared with

    def telling(self) -> str:
        """Return who told the changed pages of the tree: compare if it had to help anywhere."""
        return self._summary({tracked.telling for tracked in self._tracked.values()})

    def foresee(self, pids: Sequence[int]) -> str:
        """Return who would tell the changed pages of PIDS. Touches nothing."""
        return self._summary({self._telling(pid) for pid in pids})

    def lost(self, pids: Sequence[int]) -> bool:
        """Tell whether all of PIDS that the parent has would be compared with it, though there is a tracker here. Touches nothing."""
        return self.arming != NONE and {self._telling(pid) for pid in pids} - {NONE} == {compare.NAME}

    def _summary(self, tellers: Set[str]) -> str:
        for name in (compare.NAME, soft_dirty.NAME, uffd_wp.NAME):
            if name in tellers:
                return name
        return NONE

    def explain(self) -> None:
        """Warn where memory had to be compared although another tracker was wanted."""
        lost = sorted(pid for pid, tracked in self._tracked.items() if tracked.telling == compare.NAME)
        if lost and self._options.tracker != compare.NAME and self._parent is not None:
            names = ", ".join(map(str, lost))
            self.warnings.append(
                f"no tracker of process {names} counts from the parent dump {self._parent.top.path}: its memory was compared with it"
            )

    def remember(self, dump_id: str) -> None:
        """Let the armed trackers count from DUMP_ID, which is committed. Raises KernelError."""
        for pid, tracked in self._tracked.items():
            if not os.path.exists(f"/proc/{pid}"):
                continue  # it ended since
            if self.arming == uffd_wp.NAME and pid in self._uffds:
                uffd = self._uffds[pid]
                state.save(pid, TrackingState(dump_id, uffd_wp.NAME, uffd.number, uffd.inode))
            elif isinstance(tracked.tracker, soft_dirty.SoftDirtyTracker) and self.arming == soft_dirty.NAME:
                state.save(pid, TrackingState(dump_id, soft_dirty.NAME, sentinel=tracked.tracker.sentinel))

    def forget(self) -> None:
        """Forget all: the tree ends."""
        for pid in self._tracked:
            state.forget(pid)


def armable(wanted: str) -> str:
    """Return the tracker to arm for WANTED (auto, uffd_wp, soft_dirty, compare): none where comparing is all that is left.

    Raises KernelError when the kernel cannot do what was asked for by name.
    """
    probes = {uffd_wp.NAME: uffd_wp.supported, soft_dirty.NAME: soft_dirty.supported}
    needs = {uffd_wp.NAME: "Linux 6.7 with userfaultfd", soft_dirty.NAME: "CONFIG_MEM_SOFT_DIRTY"}
    if wanted == compare.NAME:
        return NONE
    for name, supported in probes.items():
        if wanted in ("auto", name) and supported():
            return name
    if wanted != "auto":
        raise KernelError(f"tracker {wanted} does not work on this kernel: it needs {needs[wanted]}; use tracker auto")
    return NONE
