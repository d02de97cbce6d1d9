# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""dump: write the state of a tree of processes into images, and let it run on, stay stopped, or end."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from . import untouched
from .clock import Clock
from .dedup import dedup
from .errors import Obstacle, TargetError, UnsupportedError
from .images.chain import Chain, open_chain
from .images.directory import DumpDirectory, bytes_on_disk
from .images.manifest import DUMP, FileRecord, Manifest
from .images.pagemap import PAGE_SIZE
from .images.schema import message
from .kernel import procfs
from .options import DumpOptions, no_hook
from .parent import open_parent, reading_parent
from .resources import attributes, clocks, core, numa, preflight, pstree, sharing, uts, zombies
from .resources.cgroup_roots import Roots
from .resources.files.accept_queue import AcceptQueues, stopped_at_rest
from .resources.files.dump import FilesDump
from .resources.files import kept
from .resources.files.kept import FilesKept
from .resources.fs import dump_fs
from .resources.inventory import inventory, machine, task_ids, tree_identity
from .resources.memory import aio, guard, locked, mapping, names, seal, sysv, vdso
from .resources.memory.dump import MemoryDump, require_freeze
from .resources.memory.mm import dump_mm
from .resources.mounts.dump import MountsDump
from .resources.uts import UtsDump
from .results import DumpPlan, DumpResult
from .stats import write_dump_stats
from .target import check_target
from .tracee.freeze import FrozenTree, Task
from .tracking.trackers import Trackers
from .transfer.page_client import PageClient


@dataclass(frozen=True)
class TaskImages:
    """What was read of one task in the stop, but for its memory and descriptors."""

    pid: int
    state: core.TaskState
    mm: Any
    fs: Any
    rings: Sequence[aio.Seen]


@dataclass(frozen=True)
class Work:
    """What one dump works with."""

    options: DumpOptions
    directory: DumpDirectory
    parent: Optional[Chain]
    trackers: Trackers
    files: FilesDump
    mounts: MountsDump
    sysv: sysv.SysvDump
    memory: MemoryDump
    clock: Clock
    common: core.Tables
    kept: FilesKept = field(default_factory=FilesKept)
    uts: UtsDump = field(default_factory=UtsDump)


def dump(options: DumpOptions, log: logging.Logger) -> DumpResult:
    """Dump the tree under options.tree into options.images_dir.

    Raises EngineError; then nothing that could be taken for a dump is left, and the tree runs on as before.
    """
    clock = Clock()
    directory = DumpDirectory(options.images_dir, options.force)
    directory.check()
    pids = check_target(options.tree)
    common = common_tables(options)
    with ExitStack() as stack:
        stack.enter_context(reading_parent(options))
        parent = open_parent(options)
        trackers = stack.enter_context(Trackers(options, parent, log))
        refuse(options, pids, trackers)
        options.hook("pre-dump", {"CRTOOLS_INIT_PID": str(options.tree)})
        stack.enter_context(directory)
        if parent is not None:
            directory.link_parent(str(options.prev_images_dir))
        trackers.prepare(pids)
        message("core_entry")  # builds the whole schema, once: not in the stop
        server = stack.enter_context(PageClient(options.page_server, pids, parent)) if options.page_server else None
        memory = stack.enter_context(MemoryDump(options, directory, parent, log, server))
        memory.look_ahead()
        files_kept = stack.enter_context(FilesKept(options.files, options.images_dir, parent))
        files_kept.look_ahead(pids)
        queues = stack.enter_context(newcomers_kept_away(options, pids, trackers.warnings))
        with stopped_at_rest(options.tree, options.timeout, queues, clock) as (tree, accepted):
            clock.mark("frozen")
            files = stack.enter_context(FilesDump(options, trackers.own_descriptors(tree.pids), accepted))
            mounts = stack.enter_context(MountsDump(options))
            segments = stack.enter_context(sysv.SysvDump())
            work = Work(options, directory, parent, trackers, files, mounts, segments, memory, clock, common, files_kept)
            log.info("Stopped processes %s", ", ".join(map(str, tree.pids)))
            tasks = collect(work, tree)
            fs_ids = sharing.fs_ids(tree.pids)
            ended = [zombies.read(pid) for pid in tree.zombies]
            hierarchy = pstree.read_tree(tree.pids + tree.zombies)
            memory.take(tree, files.memory_objects() + segments.objects())
            files.collect_late()
            require_quiet(tasks)
            clock.mark("taken")
            if options.leave_running and options.hook is no_hook:
                tree.thaw()
                clock.mark("thawed")
            memory.finish()
            if not options.leave_running:
                require_quiet(tasks)
            manifest = write(work, tasks, ended, hierarchy, fs_ids)
            end(work, tree, manifest)
            clock.mark("thawed")
    freed = dedup(options.images_dir, wait=True).bytes_freed if options.auto_dedup and parent is not None else 0
    untouched.remember(open_chain(options.images_dir, verify=False))
    result = report(work, manifest, tuple(task.pid for task in tasks), freed)
    write_dump_stats(options.work_dir or options.images_dir, result)
    return result


@contextmanager
def newcomers_kept_away(options: DumpOptions, pids: Sequence[int], warnings: List[str]) -> Iterator[AcceptQueues]:
    """Yield where PIDS take connections that would be lost while they wait; none come for the length of the block where others move.

    What keeps them from being kept away is added to WARNINGS.
    """
    with ExitStack() as stack:
        try:
            stays = options.tcp_established and options.leave_running
            queues = AcceptQueues() if options.skip_in_flight or stays else AcceptQueues.look(pids)
        except OSError:  # this kernel lists none (CONFIG_INET_TCP_DIAG): whether somebody waits is seen in the stop only
            queues = AcceptQueues()
        if options.tcp_established:
            try:
                stack.enter_context(queues.closed())
            except OSError as error:
                warnings.append(f"new connections that come during the stop are reset, since they cannot be kept away ({error})")
        yield queues


def common_tables(options: DumpOptions) -> core.Tables:
    """Return empty tables for a dump. Raises UsageError."""
    return core.tables(options.manage_cgroups, Roots(options.cgroup_root), options.cgroup_dump_controller, options.cgroup_yard)


def plan(options: DumpOptions) -> DumpPlan:
    """Tell what `dump` would do, touching nothing; without an images_dir, of the tree alone.

    Raises EngineError for what is wrong with the target, directory or parent.
    """
    if options.images_dir:
        DumpDirectory(options.images_dir, options.force).check()
    pids = check_target(options.tree)
    parent = open_parent(options)
    with Trackers(options, parent, logging.getLogger(__name__)) as trackers:
        trackers.choose()
        trackers.look(pids)
        obstacles, warnings = find_obstacles(options, pids, trackers)
        telling = trackers.foresee(pids)
    memory = sum(_resident(pid) for pid in pids)
    return DumpPlan(pids, not obstacles, tuple(obstacles), parent is not None, telling, memory, tuple(warnings + trackers.warnings))


def _resident(pid: int) -> int:
    """Return the bytes of PID that are in memory, 0 when it has ended."""
    try:
        return int(procfs.status(pid).get("VmRSS", "0").split()[0]) << 10
    except procfs.GONE:
        return 0


def refuse(options: DumpOptions, pids: Sequence[int], trackers: Trackers) -> None:
    """Raise UnsupportedError with all that stands in the way of dumping PIDS. Touches nothing."""
    require_freeze(options.freeze)
    trackers.choose()
    trackers.look(pids)
    obstacles, _warnings = find_obstacles(options, pids, trackers)
    if obstacles:
        raise UnsupportedError(obstacles)


def find_obstacles(options: DumpOptions, pids: Sequence[int], trackers: Trackers) -> Tuple[List[Obstacle], List[str]]:
    """Return all that stands in the way of dumping PIDS, and what is worth a warning. Touches nothing."""
    while True:
        try:
            obstacles, warnings = _obstacles_of(options, pids, trackers)
            if obstacles:  # some pass by themselves, such as a vfork(2): look twice
                again, warnings = _obstacles_of(options, pids, trackers)
                obstacles = [obstacle for obstacle in obstacles if obstacle in again]
            return obstacles, warnings
        except (TargetError, *procfs.GONE) as error:
            left = tuple(pid for pid in pids if procfs.goes_on(pid))
            if left == tuple(pids) or options.tree not in left:
                check_target(options.tree)
                if isinstance(error, TargetError):
                    raise
                raise TargetError(f"a process of the tree changed while it was looked at ({error}); dump it again") from error
            pids = left  # what came meanwhile is looked at in the stop


def _obstacles_of(options: DumpOptions, pids: Sequence[int], trackers: Trackers) -> Tuple[List[Obstacle], List[str]]:
    obstacles: List[Obstacle] = pstree.check(options.tree) + sharing.obstacles(pids)
    surveys: Dict[int, Sequence[mapping.Mapping]] = {}
    for pid in pids:
        try:
            obstacles += preflight.obstacles(pid)
            surveys[pid] = trackers.survey(pid)
            obstacles += [*mapping.obstacles(pid, surveys[pid]), *guard.obstacles(pid, surveys[pid])]
        except PermissionError as error:
            raise TargetError(f"process {pid} cannot be read ({error.strerror}); run as root, or with CAP_SYS_PTRACE") from error
    obstacles += sysv.obstacles(surveys, stopped=False)
    with MountsDump(options) as mounts:
        obstacles += mounts.obstacles(pids)
    obstacles += uts.obstacles(pids)
    with FilesDump(options, trackers.own_descriptors(pids)) as files:
        obstacles += files.preflight(pids) + kept.obstacles(pids, options.files)
        return obstacles, files.warnings()


def collect(work: Work, tree: FrozenTree) -> List[TaskImages]:
    """Read what changes, in the stop, but for late files. Raises UnsupportedError when something came up that cannot be carried."""
    work.mounts.collect(tree.pids)
    work.uts.collect(tree.pids)
    work.files.collect(tree.pids)
    collected = [_collect_task(work, task) for task in tree.tasks]
    work.sysv.check()
    work.kept.take(tree.pids, work.files.open_files())
    work.memory.warnings += work.sysv.warnings
    return collected


def _collect_task(work: Work, task: Task) -> TaskImages:
    try:
        state = core.collect(task.pid, task.threads, task.stop_signal)
        vdso.check_outside(task)
        mappings = work.memory.scan(task, work.trackers)
        refused = [*mapping.obstacles(task.pid, mappings), *guard.obstacles(task.pid, mappings)]
        if refused:
            raise UnsupportedError(refused)
        work.sysv.add(task.pid, mappings)
        vmas = mapping.dump_mappings(task.pid, mappings, work.files)
        for vma, one in zip(vmas, mappings):
            seal.fill(vma, one)
            names.fill(vma, one)
            locked.fill(vma, one)
        numa.fill_vmas(task.leader, vmas)
        mm = dump_mm(task.leader, vmas, work.files)
        rings = aio.collect(task.leader, mappings)
        attributes.fill_memory(mm, state.attributes)
        mm.aios.extend(aio.entries(mappings))
        work.memory.warnings += aio.warnings(rings)
        return TaskImages(task.pid, state, mm, dump_fs(task.pid, work.files), rings)
    except OSError as error:
        raise TargetError(f"process {task.pid} cannot be read ({error}); dump it again") from error
    finally:
        task.release_scratch()


def require_quiet(tasks: Sequence[TaskImages]) -> None:
    """Raise TargetError when asynchronous I/O has ended that the memory of TASKS, as it was taken, may not tell of."""
    for ring in [ring for task in tasks for ring in task.rings]:
        ring.check()


def write(
    work: Work, tasks: Sequence[TaskImages], ended: Sequence[zombies.Zombie], hierarchy: pstree.Pstree, fs_ids: Dict[int, int]
) -> Manifest:
    """Write all images and make them a dump; FS_IDS as `sharing` has them. Raises ImagesError."""
    options, images = work.options, work.directory.images
    pages, common = work.memory.write_images(), work.common
    namespaces = {**work.mounts.ids(), **work.uts.ids()}
    for number, task in enumerate(tasks, start=1):
        task.mm.vmas.extend(work.memory.guards(task.pid))
        images.write(f"mm-{task.pid}", [task.mm])
        images.write(f"fs-{task.pid}", [task.fs])
        images.write(f"ids-{task.pid}", [task_ids(number, work.files.files_id(task.pid), fs_ids[task.pid], namespaces)])
        for name, entry in core.images(task.state, common):
            images.write(name, [entry])
    for zombie in ended:
        images.write(f"core-{zombie.pid}", [zombies.image(zombie)])
    common.write(images)
    work.files.write(images)
    work.mounts.write(images)
    work.uts.write(images)
    work.sysv.write(images)
    pstree.write(images, hierarchy)
    work.trackers.explain()
    options.hook("post-dump", {"CRTOOLS_INIT_PID": str(options.tree)})
    manifest = replace(describe(work, DUMP, work.files.manifest_files()), kept=work.kept.finish())
    manifest = work.directory.commit(inventory(manifest.id, options.track_mem, network_lock=work.files.lock_method()), manifest, pages)
    work.files.commit()
    work.trackers.remember(manifest.id)
    return manifest


def describe(work: Work, kind: str, files: Sequence[Tuple[str, int, int, str, int]]) -> Manifest:
    """Return the manifest of the dump, without checksums."""
    host, kernel, features = machine()
    figures = work.memory.figures()
    return Manifest(
        id=work.memory.dump_id,
        kind=kind,
        parent_id=work.parent.dump_id if work.parent else "",
        tracker=work.trackers.telling(),
        tracking=work.trackers.arming,
        tree=tree_identity(work.options.tree),
        host=host,
        kernel=kernel,
        cpu_features=features,
        page_size=PAGE_SIZE,
        files=tuple(FileRecord(path, size, mtime, mode, build_id) for path, size, mtime, build_id, mode in files),
        clocks=clocks.read(),
        timings={"frozen_time": work.clock.between("freezing", "thawed"), "freezing_time": work.clock.between("freezing", "frozen")},
        figures={"pages_scanned": figures.scanned, "pages_skipped_parent": figures.in_parent, "pages_written": figures.written},
        page_server=str(work.options.page_server or ""),
    )


def report(work: Work, manifest: Manifest, pids: Tuple[int, ...], freed: int) -> DumpResult:
    """Return what was done."""
    options, clock, figures = work.options, work.clock, work.memory.figures()
    left = "running" if options.leave_running else "stopped" if options.leave_stopped else "killed"
    return DumpResult(
        images_dir=options.images_dir,
        dump_id=manifest.id,
        parent_id=manifest.parent_id,
        pids=pids,
        tracker=manifest.tracker,
        tracking=manifest.tracking,
        freeze=work.memory.freeze,
        pages_scanned=figures.scanned,
        pages_skipped_parent=figures.in_parent,
        pages_written=figures.written,
        shpages_scanned=figures.shared_scanned,
        shpages_skipped_parent=figures.shared_in_parent,
        shpages_written=figures.shared_written,
        bytes_written=bytes_on_disk(options.images_dir),
        bytes_deduplicated=freed,
        freezing_time=clock.between("freezing", "frozen"),
        frozen_time=clock.between("frozen", "thawed"),
        memdump_time=clock.between("frozen", "taken"),
        memwrite_time=int(work.memory.write_time * 1e6),
        wall_time=clock.between("start", "end"),
        left=left if manifest.kind == DUMP else "running",
        warnings=tuple(work.files.warnings() + work.trackers.warnings + work.memory.warnings + list(work.kept.warnings)),
        files_kept=work.kept.count,
        files_copied=work.kept.bytes,
        files_time=work.kept.time,
    )


def end(work: Work, tree: FrozenTree, manifest: Manifest) -> None:
    """Do with the tree what was asked for, now that the dump is committed."""
    if work.options.leave_running:
        return
    if work.options.leave_stopped:
        tree.stop_all()
        return
    work.trackers.forget()
    work.files.keep(manifest.id, tree.pids)
    tree.kill()
