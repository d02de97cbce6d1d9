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
from typing import Any, Dict, Iterator, List, Tuple

from .clock import Clock
from .dedup import check_release, release
from .errors import ChainError, ImagesError, Obstacle, RestoreError, UsageError
from .images.chain import Chain, Extent, open_chain
from .kernel import procfs
from .kernel.mount import CLONE_NEWNS
from .options import RestoreOptions
from .resources import attributes, core, numa, pstree, seccomp, sharing, zombies
from .resources.cgroups import CgroupsRestore
from .resources.files.restore import FilesRestore
from .resources.fs import restore_fs
from .resources.memory import restore as memory
from .resources.memory import seal
from .resources.memory.family import FamilyMemory
from .resources.memory.inheritance import Content
from .resources.memory.mapping import VMA_ANON_SHARED, VMA_AREA_SYSVIPC, VMA_FILE_PRIVATE, VMA_FILE_SHARED, object_sizes, survey
from .resources.memory.shared import fill as fill_object
from .resources.memory.shared import new_anonymous
from .resources.memory.sysv import SysvRestore
from .resources.mounts.restore import MountsRestore
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
    fs_id: int
    extents: Tuple[Extent, ...]


@dataclass(frozen=True)
class Source:
    """All that is restored from."""

    chain: Chain
    hierarchy: pstree.Pstree
    tasks: Tuple[TaskImages, ...]
    """Parents before their children."""
    zombies: Dict[int, Any]
    """The core_entry of each process that has ended."""
    filters: Tuple[Any, ...]
    """The seccomp filters."""

    @property
    def shared(self) -> Dict[int, Tuple[int, int]]:
        """What processes may share: files_id and fs_id of each."""
        return {task.pid: (task.files_id, task.fs_id) for task in self.tasks}

    @property
    def exit_signals(self) -> Dict[int, int]:
        """What the parent of each process is sent when it ends."""
        cores = {**{task.pid: task.cores[0] for task in self.tasks}, **self.zombies}
        return {pid: attributes.restored_exit_signal(entry) for pid, entry in cores.items()}

    def is_last_of_table(self, task: TaskImages) -> bool:
        """Tell whether TASK is the last one with its descriptor table."""
        return next(other for other in reversed(self.tasks) if other.files_id == task.files_id) is task


def restore(options: RestoreOptions, log: logging.Logger) -> RestoreResult:
    """Restore the tree in options.images_dir. Its root is then a child of ours, or with restore_sibling one of our parent.

    Raises EngineError; then nothing of the tree is left, and nothing on the machine was changed.
    """
    clock = Clock()
    source = read(options)
    with ExitStack() as stack:
        mounts = stack.enter_context(MountsRestore(source.chain.top.images, [task.pid for task in source.tasks]))
        files = stack.enter_context(FilesRestore(mounts.images, options, mounts))
        cgroups = stack.enter_context(CgroupsRestore(source.chain.top.images, options.manage_cgroups))
        sysv = stack.enter_context(SysvRestore(source.chain.top.images))
        obstacles = find_obstacles(options, source, files, mounts, cgroups) + list(sysv.check())
        if obstacles:
            raise RestoreError("; ".join(map(str, obstacles)), obstacles)
        if options.auto_dedup:
            check_release(source.chain)
        options.hook("pre-restore", {})
        mounts.make()
        mounts.run(files.open)
        sysv.open(source.chain)
        inherited = Inherited(source, files, mounts)
        stubs = stack.enter_context(Stubs())
        clock.mark("forking")
        family = FamilyMemory({task.pid: Content(task.mm, task.extents) for task in source.tasks}, inherited, files.local)
        create_root(source, stubs, inherited, options, family)
        with ThreadPoolExecutor(1) as beside:
            verification = beside.submit(source.chain.verify_pages)
            if cgroups.together([task.cores[0] for task in source.tasks]):  # memory counts for the cgroup that it is filled in
                family.compare(pstree.makers(source.hierarchy, options.shell_job))
            create(source, stubs, options, family, cgroups)
            clock.mark("forked")
            for task in source.tasks:
                fill(task, stubs, family)
            for task in source.tasks:
                settle(task, stubs, files, family)
            for task in filter(source.is_last_of_table, source.tasks):  # until then tables hold what is inherited, for all who share them
                _place_descriptors(task, stubs.leaders[task.pid], files)
            verification.result()  # nothing has run yet of what was filled
        for task in source.tasks:
            complete(task, stubs, options, source, cgroups)
        root = source.tasks[0].pid
        options.hook("post-restore", {"CRTOOLS_INIT_PID": str(root)})
        options.hook("pre-resume", {"CRTOOLS_INIT_PID": str(root)})
        files.commit()
        sysv.keep()
        stubs.go(_stopped(source, options))
        clock.mark("restored")
        options.hook("post-resume", {"CRTOOLS_INIT_PID": str(root)})
        ended = [text for pid, entry in source.zombies.items() for text in zombies.warnings(pid, entry)]
        warnings = [*files.warnings(), *cgroups.warnings, *ended]
    freed = _release(source.chain, warnings) if options.auto_dedup else 0
    log.info("Restored processes %s", ", ".join(str(task.pid) for task in source.tasks))
    result = RestoreResult(
        images_dir=options.images_dir,
        dump_id=source.chain.dump_id,
        pid=root,
        pids=tuple(task.pid for task in source.tasks),
        pages_compared=family.compared,
        pages_skipped_cow=family.shared,
        pages_restored=family.read,
        bytes_deduplicated=freed,
        forking_time=clock.between("forking", "forked"),
        restore_time=clock.between("start", "restored"),
        wall_time=clock.between("start", "end"),
        left="stopped" if options.leave_stopped else "running",
        warnings=tuple(warnings),
    )
    write_restore_stats(options.work_dir or options.images_dir, result)
    return result


def _release(chain: Chain, warnings: List[str]) -> int:
    """Free the pages of CHAIN and return the bytes freed; what fails now, while the tree runs already, is worth a warning only."""
    try:
        return release(chain)
    except ImagesError as error:
        warnings.append(f"the tree was restored, but its images were not freed: {error}")
        return 0


def plan(options: RestoreOptions) -> RestorePlan:
    """Tell what `restore` would do, or why it can't. Raises EngineError when the images cannot be used at all. Touches nothing."""
    source = read(options)
    source.chain.verify_pages()
    images = source.chain.top.images
    with ExitStack() as stack:
        mounts = stack.enter_context(MountsRestore(images, [task.pid for task in source.tasks]))
        files = stack.enter_context(FilesRestore(mounts.images, options, mounts))
        cgroups = stack.enter_context(CgroupsRestore(images, options.manage_cgroups))
        sysv = stack.enter_context(SysvRestore(images))
        obstacles = find_obstacles(options, source, files, mounts, cgroups) + list(sysv.check())
    pids = tuple(task.pid for task in source.tasks)
    return RestorePlan(source.chain.dump_id, pids[0], pids, not obstacles, tuple(obstacles))


def read(options: RestoreOptions) -> Source:
    """Read the images, and verify all but the pages, which takes time. Raises ChainError, ImagesError."""
    if options.auto_dedup and options.track_mem:
        raise UsageError("auto_dedup and track_mem exclude each other: no dump can build on images that are freed; leave one out")
    chain = open_chain(options.images_dir, verify=False)
    chain.verify_images()
    if chain.obstacle():
        raise ChainError(chain.obstacle())
    images = chain.top.images
    hierarchy = pstree.read(images)
    tasks = []
    dead = {task.pid: entry for task in hierarchy.tasks for entry in images.read(f"core-{task.pid}") if zombies.is_dead(entry)}
    for task in hierarchy.tasks:
        if task.pid in dead:
            continue
        ids: Any = images.read(f"ids-{task.pid}")[0]
        tasks.append(
            TaskImages(
                pid=task.pid,
                tids=tuple(task.threads),
                cores=tuple(images.read(f"core-{tid}")[0] for tid in task.threads),
                mm=images.read(f"mm-{task.pid}")[0],
                fs=images.read(f"fs-{task.pid}")[0],
                files_id=ids.files_id,
                fs_id=ids.fs_id,
                extents=tuple(chain.iterate_extents(f"pagemap-{task.pid}")),
            )
        )
    return Source(chain, hierarchy, tuple(tasks), dead, seccomp.read(images))


def find_obstacles(
    options: RestoreOptions, source: Source, files: FilesRestore, mounts: MountsRestore, cgroups: CgroupsRestore
) -> List[Obstacle]:
    """Return all that stands in the way of the restore, as far as it can be known before. Touches nothing."""
    obstacles = list(pstree.check_restore(source.hierarchy, options.shell_job))
    numbers = [tid for task in source.hierarchy.tasks for tid in {task.pid, *task.threads}]
    _await_reaping(numbers)
    obstacles += [obstacle for tid in numbers for obstacle in _taken(tid)]
    if not obstacles:
        obstacles += pstree.check_helpers(source.hierarchy, options.shell_job)
        obstacles += sharing.check(source.hierarchy, options.shell_job, source.shared)
    for pid, entry in source.zombies.items():
        obstacles += zombies.check(pid, entry)
    for images in source.tasks:
        obstacles += core.check(images.pid, images.cores, source.filters)
        obstacles += cgroups.check(images.pid, images.cores[0])
        obstacles += memory.check_vdso(images.pid, images.mm.vmas) + seal.check(images.pid, images.mm.vmas)
        obstacles += numa.check(images.pid, images.mm.vmas)
    return obstacles + (mounts.check() or mounts.run(files.check))


def _await_reaping(tids: List[int]) -> None:
    """Give threads that are ending, by a dump or by SIGKILL most likely, and their parents time to let go of the numbers TIDS.

    No event tells that a zombie was reaped.
    """
    deadline = time.monotonic() + _REAPING_TIME
    while any(procfs.ends(tid) for tid in tids) and time.monotonic() < deadline:
        time.sleep(_REAPING_STEP)


def _taken(tid: int) -> Iterator[Obstacle]:
    try:
        comm = procfs.text(f"/proc/{tid}/comm").strip()
    except procfs.GONE:
        return
    remedy = "end that process, or restore in a PID namespace of its own"
    yield Obstacle(0, f"PID {tid}", f"it is in use on this machine, by {comm}", remedy)


class Inherited:
    """Descriptors that the stubs inherit from us, under the same numbers: files, pages files, shared memory."""

    def __init__(self, source: Source, files: FilesRestore, mounts: MountsRestore) -> None:
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
        namespace = mounts.descriptor()
        self.namespace = files.keep(namespace) if namespace is not None else -1
        """A descriptor of the mount namespace that the tree is to have, -1 when that is ours."""
        wanted = {*mapped, *opened, *programs, *self.pages.values(), *self._shared.values(), self.namespace}
        self.descriptors = tuple(sorted(wanted - {-1}))
        """All of them: above every number that a task wants for its own."""

    def of_mapping(self, vma: Any) -> int:
        """Return the descriptor of what VMA, a vma_entry, maps; -1 where that is nothing."""
        if vma.status & VMA_AREA_SYSVIPC:
            return -1
        if vma.status & VMA_ANON_SHARED:
            return self._shared[vma.shmid]
        if vma.status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED):
            access = vma.fdflags & os.O_ACCMODE if vma.HasField("fdflags") else os.O_RDONLY
            return self._files.local(vma.shmid, access)
        return -1


def create_root(source: Source, stubs: Stubs, inherited: Inherited, options: RestoreOptions, family: FamilyMemory) -> None:
    """Create the first process, with an empty address space; no other thread of ours may run yet. Raises RestoreError."""
    try:
        root = stubs.create_root(pstree.first(source.hierarchy, options.shell_job), inherited.descriptors, options.restore_sibling)
        family.clear(root)
        root.call("close_range", 0, inherited.descriptors[0] - 1, 0)
        if inherited.namespace >= 0:
            root.call("setns", inherited.namespace, CLONE_NEWNS)
    except OSError as error:
        raise _not_created(error) from error


def create(source: Source, stubs: Stubs, options: RestoreOptions, family: FamilyMemory, cgroups: CgroupsRestore) -> None:
    """Create all other processes, in their sessions, groups and cgroups; fill those that others inherit from. Raises RestoreError."""
    tasks = {task.pid: task for task in source.tasks}
    try:
        for step in pstree.creation_plan(source.hierarchy, options.shell_job):
            if step.call in pstree.FORKS and family.bequeaths(step.argument):
                cgroups.move_process(stubs.leaders[step.actor], tasks[step.actor].cores[0])
                fill(tasks[step.actor], stubs, family)
            _carry_out(step, stubs, source)
        for process in source.hierarchy.tasks:
            if process.pid in source.zombies:
                zombies.restore(stubs, process.pid, source.zombies[process.pid], process.ppid)
        for task in source.tasks:
            cgroups.move_process(stubs.leaders[task.pid], task.cores[0])
    except OSError as error:
        raise _not_created(error) from error


def _not_created(error: OSError) -> RestoreError:
    return RestoreError(f"the processes cannot be created ({error}); see whether a limit on processes or memory is reached")


def _carry_out(step: pstree.Step, stubs: Stubs, source: Source) -> None:
    task = stubs.leaders[step.actor]
    if step.call == "fork":
        shared = sharing.flags(source.shared, step.actor, step.argument)
        stubs.create_child(task, step.argument, shared, source.exit_signals.get(step.argument, signal.SIGCHLD))
    elif step.call == pstree.FORK_BESIDE:
        stubs.create_sibling(task, step.argument)
    elif step.call == pstree.END:
        stubs.end_helper(step.actor, step.argument)
    elif step.call == "setsid":
        task.call("setsid")
    else:
        task.call("setpgid", 0, step.argument)


def fill(task: TaskImages, stubs: Stubs, family: FamilyMemory) -> None:
    """Give a process the content of its memory, unless it has it. Raises RestoreError."""
    try:
        family.fill(stubs.leaders[task.pid])
    except OSError as error:
        raise _not_built(task, error) from error


def settle(task: TaskImages, stubs: Stubs, files: FilesRestore, family: FamilyMemory) -> None:
    """Complete the memory of a process, which forks no more, and give it its directories. Raises RestoreError."""
    leader = stubs.leaders[task.pid]
    try:
        family.settle(leader)
        restore_fs(task.fs, files, leader)
    except OSError as error:
        raise _not_built(task, error) from error


def _not_built(task: TaskImages, error: OSError) -> RestoreError:
    return RestoreError(f"process {task.pid} cannot be built ({error}); check that the machine has what the dump's had")


def _place_descriptors(task: TaskImages, leader: Tracee, files: FilesRestore) -> None:
    """Give a process, and those that share its table, its descriptors and no others. Raises RestoreError."""
    descriptors = files.descriptors(task.files_id)
    floor = 1 + max([descriptor.fd for descriptor in descriptors], default=-1)
    calls = [Call("dup3", (one.local, one.fd, os.O_CLOEXEC if one.cloexec else 0)) for one in descriptors]
    try:
        for reply in leader.batch(calls):
            reply.check()
        files.finish(task.pid, task.files_id, leader)
        leader.call("close_range", floor, _ALL_DESCRIPTORS, 0)
        files.set_locks(task.pid, task.files_id, leader)
    except OSError as error:
        raise RestoreError(f"process {task.pid} cannot get its descriptors ({error}); check what else limits them") from error


def complete(task: TaskImages, stubs: Stubs, options: RestoreOptions, source: Source, cgroups: CgroupsRestore) -> None:
    """Give a process its threads and each its state, registers last: from then on it may run. Raises RestoreError."""
    leader = stubs.leaders[task.pid]
    try:
        for tid in task.tids[1:]:
            stubs.create_thread(leader, tid)
        threads = stubs.threads[task.pid]
        cgroups.move_threads(threads, task.cores)
        core.restore_process(leader, task.cores[0], task.mm)
        seccomp.restore(threads, task.cores, source.filters)
        remember = _track(leader, options)
        for thread, entry in zip(threads, task.cores):
            core.restore_thread(thread, entry, death_signal=leader is not stubs.root)
        core.finish_process(leader, task.cores[0], task.mm)
        leader.close_scratch()
        for thread, entry in zip(threads, task.cores):
            core.restore_registers(thread, entry)
        state.save(task.pid, replace(remember, dump_id=source.chain.dump_id))
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
