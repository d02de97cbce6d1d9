# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumping the memory of a tree: what is to be written, and writing it while the tree stands still or from snapshots of it."""

from __future__ import annotations

import logging
import os
import time
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from ...errors import TargetError, UsageError
from ...images.chain import Chain
from ...images.checksum import fastest
from ...images.directory import DumpDirectory
from ...images.manifest import PagesRecord
from ...images.pagemap import PAGE_SIZE, Run, pages_path, write_runs
from ...kernel import procfs
from ...kernel.prctl import PR_GET_CHILD_SUBREAPER
from ...options import DumpOptions
from ...tracee.calls import Call, Out
from ...tracee.freeze import FrozenTree, Task
from ...tracee.snapshot import Snapshot
from ...tracking.compare import NAME as COMPARE
from ...tracking.compare import Comparison
from ...tracking.tracker import Contents, NoTracker
from ...tracking.trackers import Trackers
from ...transfer.page_client import PageClient
from . import guard
from .mapping import Mapping, same_flags
from .pages import PageRuns, PagesFile
from .sent import SentObjects, SentPages
from .shared import SharedContent, SharedMemory, SharedObject

Count = Callable[[int], None]
SPOOL_LIMIT = 4096
"""Pages: a rest up to this size is taken into our own memory during the stop, which is quicker than a snapshot."""
_QUICK = 512
"""Runs: what takes the interpreter no more than a few milliseconds."""


MakeFile = Callable[[int, str, str, PageRuns, Count], PagesFile]
"""Makes the pages file of a process: its PID, the path, the algorithm of checksums, what goes into it, and who is told how much has."""


@dataclass(frozen=True)
class Figures:
    """Counts for the stats image; pages unless named otherwise."""

    scanned: int = 0
    in_parent: int = 0
    written: int = 0
    shared_scanned: int = 0
    shared_in_parent: int = 0
    shared_written: int = 0


@dataclass(frozen=True)
class TaskScan:
    """What the trackers told of the memory of one task, yet to be sorted out."""

    pid: int
    telling: str
    contents: Tuple[Tuple[Mapping, Optional[Contents]], ...]
    """None for what is better told by a snapshot of the task."""

    @property
    def urgent(self) -> bool:
        """Tell whether it is sorted out while the task stands still: it has to be, or that takes no time."""
        told = [content for _mapping, content in self.contents if content is not None]
        quick = len(told) == len(self.contents) and sum(map(len, told)) <= _QUICK
        return quick or self.telling == COMPARE or not all(mapping.forked for mapping, _content in self.contents)

    def tell(self, source: int) -> Iterator[Tuple[Mapping, Contents]]:
        """Yield the content of each mapping, from process SOURCE where it is not told yet. Raises OSError."""
        with ExitStack() as stack:
            teller: Optional[NoTracker] = None
            for mapping, content in self.contents:
                if content is None:
                    teller = teller or stack.enter_context(closing(NoTracker(source)))
                    content = teller.content(mapping, reset=False)
                yield mapping, content


@dataclass(frozen=True)
class TaskMemory:
    """The memory of one task on its way into the images."""

    pid: int
    pages_id: int
    telling: str
    runs: PageRuns

    @property
    def name(self) -> str:
        """The name of its pagemap image."""
        return f"pagemap-{self.pid}"


class MemoryDump:
    """The memory of a frozen tree. A context manager: leaving it ends the snapshots."""

    def __init__(
        self,
        options: DumpOptions,
        directory: DumpDirectory,
        parent: Optional[Chain],
        log: logging.Logger,
        server: Optional[PageClient] = None,
        make_file: MakeFile = lambda _pid, *words: PagesFile(*words),
        shared: Optional[SharedContent] = None,
    ) -> None:
        self._make_file = make_file
        self._options = options
        self._directory = directory
        self._parent = parent
        self._log = log
        self._scans: List[TaskScan] = []
        self._assumed: Dict[int, Tuple[Mapping, ...]] = {}
        self._guards: Dict[int, List[Any]] = {}
        self._tasks: List[TaskMemory] = []
        self._sources: Dict[int, int] = {}
        self._files: Dict[int, Union[PagesFile, SentPages]] = {}
        self._snapshots: List[Snapshot] = []
        self._kept = ExitStack()
        self._open_files = ExitStack()
        self._server = server
        self._shared = shared or (SentObjects(server) if server is not None else SharedMemory(directory.path, parent, options.track_mem))
        self._huge = False
        self.dump_id = server.dump_id if server is not None else str(uuid.uuid4())
        self.running: Dict[int, Tuple[Mapping, ...]] = {}
        """All mappings of the processes that were scanned while they ran."""
        self.freeze = "hold"
        self.write_time = 0.0
        """Seconds spent in writing pages."""
        self.warnings: List[str] = []

    def __enter__(self) -> MemoryDump:
        return self

    def __exit__(self, *exc: object) -> None:
        self._kept.close()
        self._open_files.close()

    def look_ahead(self) -> None:
        """Do what need not be done in the stop. Raises ChainError, ImagesError."""
        self._shared.look_ahead()

    def scan(self, task: Task, trackers: Trackers) -> Tuple[Mapping, ...]:
        """Find what a stopped TASK is to have written, and reset its tracker. Returns its mappings."""
        trackers.install(task)
        return self._scan(task.pid, trackers, lambda mapping: mapping.holds_pages, running=False)

    def scan_running(self, pid: int, trackers: Trackers) -> None:
        """Find what of the memory of PID, which may run, can be written ahead of the next dump, and reset its tracker.

        That is what a tracker watches: all else has to be written then anyway.
        """
        watched = trackers.arming != "none"
        found = self._scan(pid, trackers, lambda mapping: mapping.holds_pages and (mapping.trackable or not watched), running=True)
        self.running[pid] = found

    def _scan(self, pid: int, trackers: Trackers, wanted: Callable[[Mapping], bool], running: bool) -> Tuple[Mapping, ...]:
        found, tracked = trackers.take(pid)
        tracker, reset = tracked.tracker, trackers.arming != "none"
        late = not running and self._tells_late(pid, tracked.telling, found)
        contents: List[Tuple[Mapping, Optional[Contents]]] = []
        for mapping in filter(wanted, found):
            try:
                if late and mapping.cloned:
                    contents.append((mapping, None))
                    if reset:
                        tracker.reset(mapping)
                else:
                    contents.append((mapping, tracker.content(mapping, reset)))
            except PermissionError:
                if not running:
                    raise
                # another mapping took its place since we looked: it counts as changed for the next dump
        tracker.settle()
        if not running:
            self._guards[pid] = guard.dump(pid, [mapping for mapping in found if not (late and mapping.cloned)])
        self._huge = self._huge or any(mapping.huge_shift and mapping.private for mapping in found)
        if tracked.assumed:
            self._assumed[pid] = tuple(found)
        self._scans.append(TaskScan(pid, tracked.telling, tuple(contents)))
        return tuple(found)

    def _tells_late(self, pid: int, telling: str, mappings: Sequence[Mapping]) -> bool:
        """Tell whether a snapshot of PID will tell its content: all is dumped, and telling it would take a while of the stop."""
        if telling != "none" or self._options.holds or not all(mapping.forked for mapping in mappings if mapping.holds_pages):
            return False
        return self._options.freeze == "snapshot" or int(procfs.text(f"/proc/{pid}/statm").split()[1]) > SPOOL_LIMIT

    def scanned(self) -> Dict[int, List[Mapping]]:
        """Return by process the mappings that were scanned and are yet to be written."""
        return {scan.pid: [mapping for mapping, _content in scan.contents] for scan in self._scans}

    def _sort_out(self, wanted: Callable[[TaskScan], bool] = lambda _scan: True) -> None:
        """Find from the scans, those WANTED, what is to be written and what is left to the parent."""
        for scan in filter(wanted, self._scans):
            self._tasks.append(TaskMemory(scan.pid, len(self._tasks) + 1, scan.telling, self._runs(scan)))
            late = [mapping for mapping, content in scan.contents if content is None]
            if late:
                self._guards[scan.pid] += guard.dump(self._sources.get(scan.pid, scan.pid), late)
        self._scans = [scan for scan in self._scans if not wanted(scan)]

    def guards(self, pid: int) -> List[Any]:
        """Return the vma_entry of each guard region of PID."""
        return self._guards[pid]

    def _runs(self, scan: TaskScan) -> PageRuns:
        runs = PageRuns()
        trusted = scan.telling not in ("none", COMPARE) and (self._server is None or scan.pid in self._server.pids_in_parent)
        parent = _Coverage(self._parent, scan.pid if trusted else 0)
        for mapping, content in scan.tell(self._sources.get(scan.pid, scan.pid)):
            early = not mapping.forked
            for start, end, dirty in content:
                if dirty or not trusted:
                    runs.add(start, end, False, early)
                else:
                    for part_start, part_end, covered in parent.split(start, end):
                        runs.add(part_start, part_end, covered, early and not covered)
        return runs

    def take(self, tree: FrozenTree, shared: Sequence[SharedObject]) -> None:
        """Make the content, and that of the SHARED objects, safe from the moment that the tree goes on: copy it, or take snapshots."""
        self._shared.copy(len(self._scans) + 1, shared)
        held = self._options.holds
        self._sort_out(lambda scan: held or scan.urgent)
        if held:
            self._hold()
        elif self._options.freeze == "auto" and not self._scans and self._pages_to_write() <= SPOOL_LIMIT and not self._compares():
            for task in self._tasks:
                self._file(task).spool(task.pid)
        elif not self._snapshot(tree):
            self._sort_out()
            self._hold()

    def _hold(self) -> None:
        """Write all from the tasks themselves, which stand still."""
        self._sources = {task.pid: task.pid for task in self._tasks}
        self._write()

    def _snapshot(self, tree: FrozenTree) -> bool:
        """Take a snapshot of each task, or return False and warn when that cannot be done unseen, or at all."""
        reason = self._why_no_snapshot(tree)
        if not reason:
            try:
                for task in tree.tasks:
                    self._snapshots.append(self._kept.enter_context(Snapshot(task.leader)))
                    self._sources[task.pid] = self._snapshots[-1].pid
                self.freeze = "snapshot"
            except OSError as error:
                reason = f"the kernel makes no copy ({error.strerror})"
        if reason:
            self.warnings.append(f"no snapshot was taken ({reason}): the tree stood still until all was written")
            return False
        for memory in self._tasks:
            if memory.runs.pages_early:
                self._file(memory).copy(memory.pid, early=True)
        return True

    def _why_no_snapshot(self, tree: FrozenTree) -> str:
        if self._huge:
            return "its huge pages would have to be copied when it writes to them, and there may be none left"
        for task in tree.tasks:
            reaper = task.leader.batch([Call("prctl", (PR_GET_CHILD_SUBREAPER, Out(4))), Call("getpid")])
            if any(reaper[0].outs[0]) or reaper[1].value == 1:
                return f"process {task.pid} is the reaper of orphans and would notice it"
        if self._compares() and any(task.runs.pages_early for task in self._tasks):
            return "memory that fork(2) leaves out has to be compared"
        return ""

    def write_running(self) -> None:
        """Write from the tasks while they run. What cannot be read any more is left to the next dump. Raises ImagesError."""
        self.freeze = "none"
        self._sort_out()
        self._sources = {task.pid: task.pid for task in self._tasks}
        self._write(tolerant=True)

    def finish(self, confirmed: bool = True) -> None:
        """Write what was not written in the stop; the tree may run. Raises ImagesError, TargetError.

        CONFIRMED: unless `confirm` is called later.
        """
        if confirmed:
            self.confirm()
        self._sort_out()
        if self.freeze == "snapshot":
            self._write(early=False)
        for snapshot in self._snapshots:
            snapshot.end()
        for file in self._files.values():
            file.flush()

    def confirm(self) -> None:
        """Raise TargetError when what was assumed in the stop, to make it short, was not so."""
        for pid, mappings in self._assumed.items():
            source = self._sources.get(pid, pid)
            try:
                same = same_flags(mappings, source, copied=source != pid)
            except procfs.GONE:
                continue  # it went on and has ended
            if not same:
                raise TargetError(f"process {pid} changed the kind of its memory (madvise) while it was being stopped; dump it again")

    def _write(self, early: Optional[bool] = None, tolerant: bool = False) -> None:
        started = time.monotonic()
        self._options.progress.begin(self._pages_to_write() * PAGE_SIZE)
        for index, task in enumerate(self._tasks):
            source = self._sources[task.pid]
            if task.telling == COMPARE and self._parent is not None:
                with Comparison(source, self._parent, task.name, tolerant) as comparison:
                    self._tasks[index] = task = replace(task, runs=comparison.refine(task.runs))
            lost = self._file(task).copy(source, early, tolerant)
            if lost:
                self._tasks[index] = replace(task, runs=self._file(task).drop(lost))
        self.write_time += time.monotonic() - started

    def _file(self, task: TaskMemory) -> Union[PagesFile, SentPages]:
        if task.pid not in self._files and self._server is not None:
            self._files[task.pid] = SentPages(self._server, task.name, task.runs, self._options.progress.add)
        elif task.pid not in self._files:
            path = pages_path(self._directory.path, task.pages_id)
            made = self._make_file(task.pid, path, fastest(), task.runs, self._options.progress.add)
            self._files[task.pid] = self._open_files.enter_context(made)
        return self._files[task.pid]

    def write_images(self) -> Dict[str, PagesRecord]:
        """Write the pagemaps, or what is to be known of those sent; return the records of the pages files here by name."""
        records = {}
        for task in self._tasks:
            file = self._file(task)
            name = task.name if isinstance(file, PagesFile) else f"sent-{task.name}"
            runs = file.for_pagemap() if isinstance(file, PagesFile) else task.runs.for_pagemap()
            write_runs(self._directory.images, name, task.pages_id, runs)
            if isinstance(file, PagesFile):
                records[os.path.basename(file.path)] = file.record()
        self._shared.write_images(self._directory.images)
        if self._server is not None:
            self._server.finish()
        return records

    def figures(self) -> Figures:
        """Return the counts."""
        written = sum(task.runs.pages_written for task in self._tasks)
        in_parent = sum(task.runs.pages_in_parent for task in self._tasks)
        shared, left = self._shared.pages, self._shared.pages_in_parent
        return Figures(written + in_parent, in_parent, written, shared + left, left, shared)

    def _pages_to_write(self) -> int:
        return sum(task.runs.pages_written for task in self._tasks)

    def _compares(self) -> bool:
        return any(task.telling == COMPARE for task in self._tasks)


class _Coverage:
    """Which pages a parent dump can give: what it does not have is never left to it."""

    def __init__(self, parent: Optional[Chain], pid: int) -> None:
        name = parent.top.covered(pid) if parent is not None and pid else ""
        self._runs: Iterator[Run] = parent.runs_of(name) if parent is not None and name else iter(())
        self._run = next(self._runs, None)

    def split(self, start: int, end: int) -> Iterator[Tuple[int, int, bool]]:
        """Yield the parts from START to END, each with whether the parent covers it. Calls come in ascending order."""
        while start < end:
            while self._run is not None and self._run.start + self._run.pages * PAGE_SIZE <= start:
                self._run = next(self._runs, None)
            if self._run is None or self._run.start >= end:
                yield start, end, False
                return
            if self._run.start > start:
                yield start, self._run.start, False
                start = self._run.start
            covered = min(end, self._run.start + self._run.pages * PAGE_SIZE)
            yield start, covered, True
            start = covered


def require_freeze(freeze: str) -> None:
    """Raise UsageError for a way of freezing that does not exist yet."""
    if freeze == "live":
        raise UsageError("freeze live is not supported yet; use auto, snapshot or hold")
