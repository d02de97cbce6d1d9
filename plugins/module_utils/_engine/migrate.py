# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""migrate: move a tree to another host, whose `receive` takes it, while it runs but for the very end.

Rounds of what the tree has written to are sent until the rest is small; then it stops, the rest and its state are sent, and
when the other host has it ready, it runs there and no longer here (`transfer/decision.py`). Until that moment every failure
lets it go on here.
"""

from __future__ import annotations

import logging
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import dump as dumping
from . import pre_dump as pre_dumping
from .clock import Clock
from .errors import EngineError, MoveError
from .images.directory import DumpDirectory
from .images.manifest import PRE_DUMP
from .images.ranges import Range
from .images.schema import message
from .kernel import procfs
from .kernel.urgency import urgent
from .options import Connect, DumpOptions, MigrateOptions
from .resources import pstree, sharing, zombies
from .resources.files.accept_queue import stopped_at_rest
from .resources.files.dump import FilesDump
from .resources.files.tcp_guard import lock_table
from .resources.inventory import inventory
from .resources.memory.dump import MemoryDump
from .resources.memory.mapping import dump_mappings
from .resources.memory.sysv import SysvDump
from .resources.mounts.dump import MountsDump
from .results import MigrateResult, RoundFigures, StopFigures
from .target import check_target
from .tracee.freeze import FrozenTree
from .tracking import state, uffd_wp
from .tracking.trackers import NONE, Trackers, armable
from .transfer import preflight, shape
from .transfer.carried import CarriedFiles
from .transfer.codec import pack_areas, pack_shape, unpack
from .transfer.convergence import UNTRACKED, enough
from .transfer.decision import Decision, Record, all_stopped, ask, prune, read_down, strike_out
from .transfer.greeting import greet
from .transfer.last_round import LastPages, ground_of
from .transfer.received import PrivateDirectory
from .transfer.shared_rounds import LastShared, SharedRounds, mapped
from .transfer.sending import SentChain, StreamedPages, send_images
from .transfer.wire import ABORT, APPLIED, AREAS, FINAL, READY, ROUND_END, TREE, Link


def migrate(options: MigrateOptions, connect: Connect, log: logging.Logger) -> MigrateResult:
    """Move the tree under options.tree to the host whose `receive` a connection that CONNECT returns leads to.

    Raises EngineError: then the tree runs on here as before, with nothing of ours in it; but InDoubt, then it is left stopped.
    """
    pids = check_target(options.tree)
    prune("source")
    before = [pid for pid in pids if state.load(pid) is not None]
    try:
        link = Link(connect(options.link_timeout), options.link_timeout, options.bandwidth_limit)
    except OSError as error:
        raise MoveError(f"the destination cannot be reached ({error}); start a receiver there, and check address and port") from error
    with link, PrivateDirectory() as directory:
        move = _Move(options, connect, log, link, directory)
        try:
            return move.run(pids)
        except EngineError as error:
            with suppress(MoveError):
                link.send(ABORT, str(error).encode())
            _disarm(options, before)
            raise


def settle(session: str, connect: Connect, timeout: float) -> bool:
    """Find out what became of the tree of SESSION that was left stopped here, by a receiver on its destination.

    Returns whether it runs there, and is ended here; else it goes on here. Raises MoveError, and InDoubt when nobody answers.
    """
    record = read_down("source", session)
    if record is None:
        raise MoveError(f"nothing is known of a session {session} here; give one whose outcome was left in doubt on this host")
    reason = ask(session, connect, timeout, timeout, lost="earlier") if _decided(record) else "it was not decided"
    for pid, start in record.processes:
        with suppress(*procfs.GONE):
            if procfs.stat(pid).start_time == start and (not reason or pid in record.stopped):
                os.kill(pid, signal.SIGCONT if reason else signal.SIGKILL)
    strike_out("source", session)
    return not reason


def _decided(record: Record) -> bool:
    """Tell whether the tree of RECORD may run on the other host; a process that is gone was ended by this decision."""
    try:
        return all_stopped(record)
    except procfs.GONE:
        return True


_FEW = 256
"""Pages: so few take the interpreter a few milliseconds in the stop."""


class _Move:
    """One move, as the source sees it."""

    def __init__(self, options: MigrateOptions, connect: Connect, log: logging.Logger, link: Link, directory: str) -> None:
        self._options = options
        self._connect = connect
        self._log = log
        self._link = link
        self._directory = directory
        self._session = str(uuid.uuid4())
        self._clock = Clock()
        self._sent: Optional[SentChain] = None
        self._rounds: List[RoundFigures] = []
        self._warnings: List[str] = []
        self._files = CarriedFiles((), options.tree)
        self._shared = SharedRounds(link)

    def run(self, pids: Sequence[int]) -> MigrateResult:
        """Move the tree. Raises EngineError."""
        greet(self._link, self._session, self._options.compress)
        found = preflight.look(self._options, pids, self._link, self._log)
        self._warnings += found.there
        self._files = found.files
        self._files.send(self._link, pids)
        message("core_entry")  # builds the whole schema, once: not in the stop
        reason = UNTRACKED if armable(self._options.tracker) == NONE else ""
        while not reason:
            self._rounds.append(self._round(len(self._rounds) + 1))
            self._log.info("Round %d: %d pages", self._rounds[-1].number, self._rounds[-1].pages)
            allowed = max(self._options.max_downtime - self._shared.look_time, 0)
            reason = enough(self._rounds, allowed, self._options.max_rounds - 1)
        self._files.send(self._link, check_target(self._options.tree))
        return self._stop(reason)

    def _refuse(self, number: int) -> None:
        """Raise UnsupportedError when something came up that cannot be carried."""
        options = self._dump_options(number)
        with Trackers(options, self._sent, self._log) as trackers:
            dumping.refuse(options, check_target(options.tree), trackers)

    def _dump_options(self, number: int, last: bool = False) -> DumpOptions:
        return preflight.dump_options(self._options, os.path.join(self._directory, str(number)), last)

    def _round(self, number: int) -> RoundFigures:
        """Send what was written to since the round before, while the tree runs; what cannot be carried was refused before."""
        clock, options, sent_before = Clock(), self._dump_options(number), self._link.bytes_sent
        options.progress.name(f"round {number}")
        os.mkdir(options.images_dir)
        pids = check_target(options.tree)
        with ExitStack() as stack:
            directory = stack.enter_context(DumpDirectory(options.images_dir, lasting=False))
            trackers = stack.enter_context(Trackers(options, self._sent, self._log))
            trackers.choose()
            trackers.look(pids)
            trackers.prepare(pids)
            files, mounts = stack.enter_context(FilesDump(options)), stack.enter_context(MountsDump(options))
            memory = stack.enter_context(MemoryDump(options, directory, self._sent, self._log, make_file=self._streamed))
            common = dumping.common_tables(options)
            segments = stack.enter_context(SysvDump())
            work = dumping.Work(options, directory, None, trackers, files, mounts, segments, memory, clock, common)
            pre_dumping.scan(work, pids)
            scanned = memory.scanned()
            members = shape.look([pid for pid in pids if pid in scanned])
            self._link.send(TREE, pack_shape(members))
            for pid in [one.pid for one in members]:
                self._link.send(AREAS, pack_areas(pid, dump_mappings(pid, scanned[pid], files)))
            memory.write_running()
            self._shared.send(mapped(memory.running, files, segments), options.progress)
            memory.write_images()
            self._link.send(ROUND_END)
            kept = unpack(self._link.expect(APPLIED)).get("kept") is True
            manifest = dumping.describe(work, PRE_DUMP, ())
            directory.commit(inventory(manifest.id, track_mem=True, pre_dump=True), manifest)
            trackers.remember(manifest.id)
            pages = memory.figures().written + self._shared.pages
        self._sent = SentChain.open(options.images_dir) if kept else None
        since = self._rounds[-1].time if self._rounds else 0
        rate = pages * 1_000_000 // since if since else 0
        return RoundFigures(number, pages, self._link.bytes_sent - sent_before, clock.between("start", "end"), rate)

    def _streamed(self, _pid: int, *words: Any) -> StreamedPages:
        return StreamedPages(self._link, *words)

    def _stop(self, reason: str) -> MigrateResult:
        """Stop the tree, send the rest and its state, and let it run on the other host."""
        self._refuse(len(self._rounds) + 1)
        before = 0
        while 0 < len(self._rounds) < self._options.max_rounds:  # short ones: little is written to meanwhile, and left for the stop
            self._rounds.append(self._round(len(self._rounds) + 1))
            before, pages = before or self._rounds[-2].pages, self._rounds[-1].pages
            if pages <= _FEW or pages > before // 2:
                break
            before = pages
        clock, options, sent_before = Clock(), self._dump_options(len(self._rounds) + 1, last=True), self._link.bytes_sent
        os.mkdir(options.images_dir)
        pids = check_target(options.tree)
        with ExitStack() as stack:
            directory = stack.enter_context(DumpDirectory(options.images_dir, lasting=False))
            trackers = stack.enter_context(Trackers(options, self._sent, self._log, assumes=True))
            trackers.look(pids)
            trackers.prepare(pids)
            ground: Dict[int, List[Range]] = {}
            make_file, shared = partial(self._last_pages, ground), LastShared(self._shared, options.images_dir)
            memory = stack.enter_context(MemoryDump(options, directory, self._sent, self._log, make_file=make_file, shared=shared))
            self._hook("pre-freeze")
            queues = stack.enter_context(dumping.newcomers_kept_away(options, pids, self._warnings))
            with urgent(), stopped_at_rest(options.tree, options.timeout, queues, clock) as (tree, accepted):
                clock.mark("frozen")
                files = stack.enter_context(FilesDump(options, trackers.own_descriptors(tree.pids), accepted))
                mounts, segments = stack.enter_context(MountsDump(options)), stack.enter_context(SysvDump())
                common = dumping.common_tables(options)
                work = dumping.Work(options, directory, None, trackers, files, mounts, segments, memory, clock, common)
                tasks = dumping.collect(work, tree)
                fs_ids, ended = sharing.fs_ids(tree.pids), [zombies.read(pid) for pid in tree.zombies]
                hierarchy = pstree.read_tree(tree.pids + tree.zombies)
                ground.update(self._send_areas(tree, tasks))
                clock.mark("scanned")
                memory.take(tree, files.memory_objects() + segments.objects())
                memory.finish(confirmed=False)
                files.collect_late()
                with ThreadPoolExecutor(1) as beside:  # the address is not needed here any more, nor there before all is sent
                    given = beside.submit(self._hook, "post-freeze")
                    manifest = dumping.write(work, tasks, ended, hierarchy, fs_ids)
                    clock.mark("written")
                    self._files.send(self._link, tree.pids, last=True)
                    send_images(self._link, options.images_dir)
                    given.result()
                self._link.send(FINAL)
                clock.mark("sent")
                memory.confirm()
                self._link.expect(READY)
                clock.mark("ready")
                waits = (self._options.link_timeout, self._options.decision_timeout)
                table = lock_table(manifest.id) if files.lock_method() else ""
                if table:
                    self._log.info("The packets of its connections are going to be dropped by table %s", table)
                decision = Decision(self._session, tree, self._connect, *waits, lock_table=table)
                decision.carry_out(self._link)
                clock.mark("running")
                self._let_go(work, tree, manifest.id, decision)
            figures = memory.figures()
        marks = ("freezing", "frozen", "scanned", "written", "sent", "ready", "running")
        freeze, scan, copy, send, apply, resume = (clock.between(first, second) for first, second in zip(marks, marks[1:]))
        pages, sent = figures.written + figures.shared_written, self._link.bytes_sent - sent_before
        stop = StopFigures(freeze, scan, copy, send, apply, resume, pages, sent)
        warnings = tuple(files.warnings() + trackers.warnings + self._warnings)
        moved = tuple(task.pid for task in tasks)
        self._log.info("Processes %s run on the other host", ", ".join(map(str, moved)))
        return MigrateResult(self._session, moved, tuple(self._rounds), reason, stop, table, self._clock.between("start", "end"), warnings)

    def _last_pages(self, ground: Mapping[int, Sequence[Range]], pid: int, *words: Any) -> LastPages:
        return LastPages(self._link, ground[pid], *words)

    def _send_areas(self, tree: FrozenTree, tasks: Sequence[dumping.TaskImages]) -> Dict[int, List[Range]]:
        """Send which processes there are and where their memory is; return by process where pages can be sent to."""
        self._link.send(TREE, pack_shape(shape.look(tree.pids), last=True))
        ground = {task.pid: ground_of(task.mm.vmas) for task in tasks}
        for pid, vmas in ground.items():
            self._link.send(AREAS, pack_areas(pid, vmas))
        return {pid: [(vma.start, vma.end) for vma in vmas] for pid, vmas in ground.items()}

    def _hook(self, stage: str) -> None:
        self._options.hook(stage, {"CRTOOLS_INIT_PID": str(self._options.tree)})

    def _let_go(self, work: dumping.Work, tree: FrozenTree, dump_id: str, decision: Decision) -> None:
        """End the tree here: it runs on the other host. Its connections stay mute."""
        try:
            work.trackers.forget()
            work.files.keep(dump_id, tree.pids)
        except EngineError as error:  # no reason to keep a second one of it
            self._warnings.append(f"the tree runs on the other host, but what is left of it here: {error}")
        finally:
            decision.end()


def _disarm(options: MigrateOptions, before: Sequence[int]) -> None:
    """Take our trackers out of the tree again, but for processes that had one BEFORE."""
    with suppress(EngineError, *procfs.GONE), FrozenTree(options.tree, options.timeout) as tree:
        for task in tree.tasks:
            found = state.load(task.pid)
            tracker = uffd_wp.find(task.pid, found) if task.pid not in before else None
            if tracker is not None:
                tracker.close()
                task.leader.call("close", tracker.number)
                task.release_scratch()
                state.forget(task.pid)
