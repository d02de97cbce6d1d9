# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""restore: make a tree of processes anew from the images of a dump and of its parents."""

from __future__ import annotations

import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Tuple

from .clock import Clock
from .errors import ChainError, Obstacle, RestoreError, UsageError
from .images.chain import Chain, Extent, open_chain
from .kernel import procfs
from .options import RestoreOptions
from .resources import core, pstree
from .resources.files.restore import FilesRestore
from .resources.fs import restore_fs
from .resources.memory import restore as memory
from .resources.memory.mapping import VMA_ANON_SHARED, VMA_FILE_PRIVATE, VMA_FILE_SHARED, object_sizes, survey
from .resources.memory.mm import restore_mm
from .resources.memory.shared import fill as fill_object
from .resources.memory.shared import new_anonymous
from .results import RestorePlan, RestoreResult
from .stats import write_restore_stats
from .tracee.calls import Call
from .tracee.stubs import Stubs
from .tracee.tracee import Tracee
from .tracking import soft_dirty, state, uffd_wp
from .tracking.trackers import NONE, armable

_REAPING_TIME, _REAPING_STEP = 5.0, 0.01
"""Seconds."""
_ALL_DESCRIPTORS = (1 << 32) - 1


@dataclass(frozen=True)
class TaskImages:
    """The images of one process."""

    pid: int
    tids: Tuple[int, ...]
    """Of all threads, the leader first."""
    cores: Tuple[Any, ...]
    """core_entry of each thread, the leader's first."""
    mm: Any
    fs: Any
    files_id: int
    extents: Tuple[Extent, ...]


@dataclass(frozen=True)
class Source:
    """All that is restored from."""

    chain: Chain
    hierarchy: pstree.Pstree
    tasks: Tuple[TaskImages, ...]
    """Parents before their children."""


def restore(options: RestoreOptions, log: logging.Logger) -> RestoreResult:
    """Restore the tree in options.images_dir. Its root is then a child of ours.

    Raises EngineError; then nothing of the tree is left, and nothing on the machine was changed.
    """
    clock = Clock()
    source = read(options)
    with ExitStack() as stack:
        files = stack.enter_context(FilesRestore(source.chain.top.images, options))
        obstacles = find_obstacles(options, source, files)
        if obstacles:
            raise RestoreError("; ".join(map(str, obstacles)), obstacles)
        options.hook("pre-restore", {})
        files.open()
        inherited = Inherited(source, files)
        stubs = stack.enter_context(Stubs())
        clock.mark("forking")
        create(source, stubs, inherited, options)
        clock.mark("forked")
        with ThreadPoolExecutor(1) as beside:
            verification = beside.submit(source.chain.verify_pages)
            pages = sum(fill(task, stubs, files, inherited) for task in source.tasks)
            verification.result()  # nothing has run yet of what was filled
        files.complete()
        for task in source.tasks:
            complete(task, stubs, options, source.chain)
        root = source.tasks[0].pid
        options.hook("post-restore", {"CRTOOLS_INIT_PID": str(root)})
        options.hook("pre-resume", {"CRTOOLS_INIT_PID": str(root)})
        files.commit()
        stubs.go(_stopped(source, options))
        clock.mark("restored")
        options.hook("post-resume", {"CRTOOLS_INIT_PID": str(root)})
        warnings = tuple(files.warnings())
    log.info("Restored processes %s", ", ".join(str(task.pid) for task in source.tasks))
    result = RestoreResult(
        images_dir=options.images_dir,
        dump_id=source.chain.dump_id,
        pid=root,
        pids=tuple(task.pid for task in source.tasks),
        pages_compared=0,
        pages_skipped_cow=0,
        pages_restored=pages,
        forking_time=clock.between("forking", "forked"),
        restore_time=clock.between("start", "restored"),
        wall_time=clock.between("start", "end"),
        left="stopped" if options.leave_stopped else "running",
        warnings=warnings,
    )
    write_restore_stats(options.work_dir or options.images_dir, result)
    return result


def plan(options: RestoreOptions) -> RestorePlan:
    """Tell what `restore` would do, or why it can't. Raises EngineError when the images cannot be used at all. Touches nothing."""
    source = read(options)
    source.chain.verify_pages()
    with FilesRestore(source.chain.top.images, options) as files:
        obstacles = find_obstacles(options, source, files)
    pids = tuple(task.pid for task in source.tasks)
    return RestorePlan(source.chain.dump_id, pids[0], pids, not obstacles, tuple(obstacles))


def read(options: RestoreOptions) -> Source:
    """Read the images, and verify all but the pages, which takes time. Raises ChainError, ImagesError."""
    if options.auto_dedup:
        raise UsageError("auto_dedup is not supported by restore yet; restore without it and remove the images afterwards")
    chain = open_chain(options.images_dir, verify=False)
    chain.verify_images()
    if chain.obstacle():
        raise ChainError(chain.obstacle())
    images = chain.top.images
    hierarchy = pstree.read(images)
    tasks = []
    for task in hierarchy.tasks:
        tasks.append(
            TaskImages(
                pid=task.pid,
                tids=tuple(task.threads),
                cores=tuple(images.read(f"core-{tid}")[0] for tid in task.threads),
                mm=images.read(f"mm-{task.pid}")[0],
                fs=images.read(f"fs-{task.pid}")[0],
                files_id=int(images.read(f"ids-{task.pid}")[0].files_id),  # type: ignore[attr-defined]
                extents=tuple(chain.iterate_extents(f"pagemap-{task.pid}")),
            )
        )
    return Source(chain, hierarchy, tuple(tasks))


def find_obstacles(options: RestoreOptions, source: Source, files: FilesRestore) -> List[Obstacle]:
    """Return all that stands in the way of the restore, as far as it can be known before. Touches nothing."""
    obstacles = list(pstree.check_restore(source.hierarchy, options.shell_job))
    _await_reaping([task.pid for task in source.tasks])
    for task in source.hierarchy.tasks:
        obstacles += [_taken(tid) for tid in task.threads if os.path.exists(f"/proc/{tid}")]
    for images in source.tasks:
        obstacles += core.check(images.pid, images.cores)
        obstacles += memory.check_vdso(images.pid, images.mm.vmas)
    return obstacles + files.check()


def _await_reaping(pids: List[int]) -> None:
    """Give the parents of processes that have just ended, by a dump most likely, time to let go of their PIDS.

    No event tells that a zombie was reaped.
    """
    deadline = time.monotonic() + _REAPING_TIME
    while any(_is_zombie(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(_REAPING_STEP)


def _is_zombie(pid: int) -> bool:
    try:
        return procfs.stat(pid).state == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _taken(tid: int) -> Obstacle:
    with open(f"/proc/{tid}/comm", encoding="utf-8", errors="replace") as file:
        comm = file.read().strip()
    remedy = "end that process, or restore in a PID namespace of its own"
    return Obstacle(0, f"PID {tid}", f"it is in use on this machine, by {comm}", remedy)


class Inherited:
    """Descriptors that the stubs inherit from us, under the same numbers: files, pages files, shared memory."""

    def __init__(self, source: Source, files: FilesRestore) -> None:
        self._files = files
        self._shared: Dict[int, int] = {}
        self.pages: Dict[str, int] = {}
        """Descriptors of the pages files, by path."""
        for task in source.tasks:
            for extent in task.extents:
                if extent.path not in self.pages:
                    self.pages[extent.path] = files.keep(os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC))
        for shmid, size in object_sizes([task.mm.vmas for task in source.tasks]).items():
            self._shared[shmid] = files.keep(new_anonymous(size))
            fill_object(self._shared[shmid], size, source.chain.iterate_extents(f"pagemap-shmem-{shmid}"))
        mapped = [self.of_mapping(vma) for task in source.tasks for vma in task.mm.vmas]
        opened = [files.local(one.file_id) for task in source.tasks for one in files.descriptors(task.files_id)]
        programs = [files.local(file_id) for task in source.tasks for file_id in (task.mm.exe_file_id, task.fs.cwd_id, task.fs.root_id)]
        wanted = {*mapped, *opened, *programs, *self.pages.values(), *self._shared.values()}
        self.descriptors = tuple(sorted(wanted - {-1}))
        """All of them: above every number that a task wants for its own."""

    def of_mapping(self, vma: Any) -> int:
        """Return the descriptor of what VMA, a vma_entry, maps; -1 where that is nothing."""
        if vma.status & VMA_ANON_SHARED:
            return self._shared[vma.shmid]
        if vma.status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED):
            access = vma.fdflags & os.O_ACCMODE if vma.HasField("fdflags") else os.O_RDONLY
            return self._files.local(vma.shmid, access)
        return -1


def create(source: Source, stubs: Stubs, inherited: Inherited, options: RestoreOptions) -> None:
    """Create all processes, with empty address spaces, in their sessions and groups. Raises RestoreError."""
    try:
        root = stubs.create_root(source.tasks[0].pid, inherited.descriptors)
        memory.clear(root, memory.find_parking([task.mm for task in source.tasks], root))
        root.call("close_range", 0, inherited.descriptors[0] - 1, 0)
        for step in pstree.creation_plan(source.hierarchy):
            _carry_out(step, stubs)
    except OSError as error:
        raise RestoreError(f"the processes cannot be created ({error}); see whether a limit on processes or memory is reached") from error


def _carry_out(step: pstree.Step, stubs: Stubs) -> None:
    task = stubs.leaders[step.actor]
    if step.call == "fork":
        stubs.create_child(task, step.argument)
    elif step.call == "setsid":
        task.call("setsid")
    else:
        task.call("setpgid", 0, step.argument)


def fill(task: TaskImages, stubs: Stubs, files: FilesRestore, inherited: Inherited) -> int:
    """Give a process its memory, directories and descriptors, and its threads; return the pages read. Raises RestoreError."""
    leader = stubs.leaders[task.pid]
    try:
        restore_mm(leader, task.mm, files.local(task.mm.exe_file_id))
        pages = memory.build(leader, task.mm, task.extents, inherited.pages, inherited.of_mapping)
        restore_fs(task.fs, files, leader)
        _place_descriptors(task, leader, files)
    except OSError as error:
        raise RestoreError(f"process {task.pid} cannot be built ({error}); check that the machine has what the dump's had") from error
    return pages


def _place_descriptors(task: TaskImages, leader: Tracee, files: FilesRestore) -> None:
    descriptors = files.descriptors(task.files_id)
    floor = 1 + max([descriptor.fd for descriptor in descriptors], default=-1)
    calls = [Call("dup3", (one.local, one.fd, os.O_CLOEXEC if one.cloexec else 0)) for one in descriptors]
    for reply in leader.batch(calls):
        reply.check()
    files.finish(task.pid, task.files_id, leader)
    leader.call("close_range", floor, _ALL_DESCRIPTORS, 0)


def complete(task: TaskImages, stubs: Stubs, options: RestoreOptions, chain: Chain) -> None:
    """Give a process its threads and each its state, registers last: from then on it may run. Raises RestoreError."""
    leader = stubs.leaders[task.pid]
    try:
        for tid in task.tids[1:]:
            stubs.create_thread(leader, tid)
        threads = stubs.threads[task.pid]
        core.restore_process(leader, task.cores[0], task.mm)
        remember = _track(leader, options)
        for thread, entry in zip(threads, task.cores):
            core.restore_thread(thread, entry, death_signal=leader is not stubs.root)
        core.finish_process(leader, task.cores[0], task.mm)
        leader.close_scratch()
        for thread, entry in zip(threads, task.cores):
            core.restore_registers(thread, entry)
        state.save(task.pid, replace(remember, dump_id=chain.dump_id))
    except OSError as error:
        raise RestoreError(f"process {task.pid} cannot be completed ({error}); check that the machine has what the dump's had") from error


def _track(leader: Tracee, options: RestoreOptions) -> state.TrackingState:
    """Arm a tracker in a task that is complete but for its registers, if that was asked for; return what is to be remembered."""
    name = armable("auto") if options.track_mem else NONE
    if name == uffd_wp.NAME:
        tracker = uffd_wp.install(leader)
        mappings = survey(leader.pid)
        tracker.register(mappings)
        tracker.protect(mappings)
        tracker.close()
        return state.TrackingState("", name, tracker.number, tracker.inode)
    return state.TrackingState("", name, sentinel=soft_dirty.reset(leader.pid) if name == soft_dirty.NAME else 0)


def _stopped(source: Source, options: RestoreOptions) -> Dict[int, int]:
    """Return the processes that are to be left stopped, and by which signal."""
    if options.leave_stopped:
        return {task.pid: signal.SIGSTOP for task in source.tasks}
    stops = {task.pid: core.stop_signal(task.cores[0]) for task in source.tasks}
    return {pid: signo for pid, signo in stops.items() if signo}
