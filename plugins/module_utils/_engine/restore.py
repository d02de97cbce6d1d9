# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""restore: make a tree of processes anew from the images of a dump and of its parents."""

from __future__ import annotations

import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Container, Dict, List, Optional

from .basis import Anew, Basis, Building
from .chains.lock import reading
from .clock import Clock
from .errors import ImagesError, Obstacle, RestoreError
from .images.chain import open_chain
from .images.pagemap import PAGE_SIZE
from .options import RestoreOptions
from .release import Release
from .resources import clocks, core, numa, numbers, pstree, seccomp, sharing, uts, zombies
from .resources.cgroup_roots import Roots
from .resources.cgroups import CgroupsRestore
from .resources.files.put_back import FilesPutBack
from .resources.files.restore import FilesRestore
from .resources.fs import restore_fs
from .resources.memory import aio, hugetlb, mapping, seal, vdso
from .resources.memory.sysv import IMAGE as SYSV_IMAGE
from .resources.memory.sysv import SysvRestore
from .resources.mounts.restore import MountsRestore
from .results import RestorePlan, RestoreResult
from .source import Inherited, Source, TaskImages, read
from .stats import write_restore_stats
from .tracee.calls import Call
from .tracee.stubs import Stubs
from .tracee.tracee import Tracee
from .tracking import soft_dirty, state, uffd_wp
from .tracking.trackers import NONE, armable

_ALL_DESCRIPTORS = (1 << 32) - 1


def restore(options: RestoreOptions, log: logging.Logger, basis: Optional[Basis] = None) -> RestoreResult:
    """Restore the tree in options.images_dir. Its root is then a child of ours, or with restore_sibling one of our parent.

    BASIS: what is there of it already; None for nothing.
    Raises EngineError; then nothing of the tree is left, and nothing on the machine was changed.
    """
    clock = Clock()
    basis = basis or Anew()
    with ExitStack() as stack:
        stack.enter_context(reading(options.images_dir))
        source = read(options, basis.open(options.images_dir))
        mounts = stack.enter_context(MountsRestore(source.chain.top.images, [task.pid for task in source.tasks]))
        numbers_wanted = frozenset(tid for task in source.hierarchy.tasks for tid in (task.pid, *task.threads))
        put_back = stack.enter_context(FilesPutBack(source.chain.top, mounts, options.restore_files, options.apart, numbers_wanted))
        files = stack.enter_context(FilesRestore(mounts.images, options, mounts, put_back.paths, put_back.offered))
        cgroups = stack.enter_context(_cgroups(source, options))
        sysv = stack.enter_context(SysvRestore(source.chain.top.images))
        obstacles = find_obstacles(options, source, files, mounts, cgroups, basis.numbers) + list(sysv.check()) + put_back.check()
        if obstacles:
            raise RestoreError("; ".join(map(str, obstacles)), obstacles)
        release = Release(source.chain) if options.auto_dedup else None
        if release is not None:
            release.check()
        options.hook("pre-restore", {})
        mounts.make()
        notes = put_back.warnings()
        put_back.put()
        mounts.run(files.open)
        sysv.open(source.chain, options.filled)
        inherited = Inherited(source, files, mounts)
        stubs = stack.enter_context(basis.stubs)
        clock.mark("forking")
        options.progress.begin(sum(extent.pages * PAGE_SIZE for task in source.tasks for extent in task.extents))
        building = basis.begin(source, inherited, options, files, release.free if release is not None else None)
        if release is not None:
            stack.enter_context(release).begin()
        cgroups.prepare(core for task in source.tasks for core in task.cores)
        with ThreadPoolExecutor(1) as beside:
            verification = beside.submit(source.chain.verify_pages if release is None else _nothing)
            building.create(cgroups)
            clock.mark("forked")
            for task in source.tasks:
                fill(task, building)
            for task in source.tasks:
                settle(task, stubs.leaders[task.pid], building, files)
            for task in source.tasks:  # before the descriptors, which may stand for threads
                _create_threads(task, stubs)
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
        put_back.going(root)
        stubs.go(_stopped(source, options))
        put_back.keep()
        if release is not None:
            release.keep()
        clock.mark("restored")
        options.hook("post-resume", {"CRTOOLS_INIT_PID": str(root)})
        shown = source.chain.top.manifest.clocks if source.chain.top.manifest is not None else {}
        ended = [text for pid, entry in source.zombies.items() for text in zombies.warnings(pid, entry)]
        warnings = [*files.warnings(), *cgroups.warnings, *ended, *clocks.warnings(source.chain.top.images, shown), *notes]
    freed, figures = _finish(release, warnings) if release is not None else 0, building.figures()
    log.info("Restored processes %s", ", ".join(str(task.pid) for task in source.tasks))
    result = RestoreResult(
        images_dir=options.images_dir,
        dump_id=source.chain.dump_id,
        pid=root,
        pids=tuple(task.pid for task in source.tasks),
        pages_compared=figures.compared,
        pages_skipped_cow=figures.shared,
        pages_restored=figures.read,
        bytes_deduplicated=freed,
        forking_time=clock.between("forking", "forked"),
        restore_time=clock.between("start", "restored"),
        wall_time=clock.between("start", "end"),
        left="stopped" if options.leave_stopped else "running",
        warnings=tuple(warnings),
        files_restored=put_back.count,
    )
    write_restore_stats(options.work_dir or options.images_dir, result)
    return result


def _nothing() -> None:
    """Do nothing: the pages were verified before the first of them was freed."""


def _finish(release: Release, warnings: List[str]) -> int:
    """Free what is left of the images and return the bytes freed; what fails now, while the tree runs, is worth a warning only."""
    try:
        return release.finish()
    except ImagesError as error:
        warnings.append(f"the tree was restored, but its images were not freed: {error}")
        return 0


def plan(options: RestoreOptions) -> RestorePlan:
    """Tell what `restore` would do, or why it can't. Raises EngineError when the images cannot be used at all. Touches nothing."""
    source = read(options, open_chain(options.images_dir, verify=False))
    source.chain.verify_pages()
    images = source.chain.top.images
    with ExitStack() as stack:
        mounts = stack.enter_context(MountsRestore(images, [task.pid for task in source.tasks]))
        put_back = stack.enter_context(FilesPutBack(source.chain.top, mounts, options.restore_files))
        files = stack.enter_context(FilesRestore(mounts.images, options, mounts, put_back.paths, put_back.offered))
        cgroups = stack.enter_context(_cgroups(source, options))
        sysv = stack.enter_context(SysvRestore(images))
        obstacles = find_obstacles(options, source, files, mounts, cgroups) + list(sysv.check()) + put_back.check()
    pids = tuple(task.pid for task in source.tasks)
    return RestorePlan(source.chain.dump_id, pids[0], pids, not obstacles, tuple(obstacles))


def _cgroups(source: Source, options: RestoreOptions) -> CgroupsRestore:
    return CgroupsRestore(source.chain.top.images, options.manage_cgroups, Roots(options.cgroup_root), options.cgroup_yard)


def find_obstacles(
    options: RestoreOptions,
    source: Source,
    files: FilesRestore,
    mounts: MountsRestore,
    cgroups: CgroupsRestore,
    own: Container[int] = (),
) -> List[Obstacle]:
    """Return all that stands in the way of the restore, as far as it can be known before; the numbers OWN are ours. Touches nothing."""
    obstacles = list(pstree.check_restore(source.hierarchy, options.shell_job))
    wanted = [tid for task in source.hierarchy.tasks for tid in {task.pid, *task.threads}]
    obstacles += numbers.check(tid for tid in wanted if tid not in own)
    if not obstacles:
        obstacles += pstree.check_helpers(source.hierarchy, options.shell_job)
        obstacles += sharing.check(source.hierarchy, options.shell_job, source.shared)
    for pid, entry in source.zombies.items():
        obstacles += zombies.check(pid, entry)
    for images in source.tasks:
        obstacles += core.check(images.pid, images.cores, source.filters)
        obstacles += cgroups.check(images.pid, images.cores[0])
        obstacles += vdso.check(images.pid, images.cores, images.mm.vmas, images.extents)
        obstacles += seal.check(images.pid, images.mm.vmas) + numa.check(images.pid, images.mm.vmas)
    obstacles += hugetlb.check(source.chain.top.images, [(task.mm, task.extents) for task in source.tasks], SYSV_IMAGE)
    obstacles += aio.check([task.mm for task in source.tasks])
    obstacles += uts.check(source.chain.top.images, [task.pid for task in source.tasks])
    return obstacles + (mounts.check() or mounts.run(files.check))


def settle(task: TaskImages, leader: Tracee, building: Building, files: FilesRestore) -> None:
    """Complete the memory of a process, which forks no more, and give it its directories. Raises RestoreError."""
    try:
        building.settle(task)
        restore_fs(task.fs, files, leader)
    except OSError as error:
        raise _not_built(task, error) from error


def fill(task: TaskImages, building: Building) -> None:
    """Give a process the content of its memory. Raises RestoreError."""
    try:
        building.fill(task)
    except OSError as error:
        raise _not_built(task, error) from error


def _not_built(task: TaskImages, error: OSError) -> RestoreError:
    return RestoreError(f"process {task.pid} cannot be built ({error}); check that the machine has what the dump's had")


def _create_threads(task: TaskImages, stubs: Stubs) -> None:
    """Give a process its threads, stubs as it is one. Raises RestoreError."""
    for tid in task.tids[1:]:
        stubs.create_thread(stubs.leaders[task.pid], tid)


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
    """Give a process and its threads each its state, registers last: from then on it may run. Raises RestoreError."""
    leader = stubs.leaders[task.pid]
    try:
        threads = stubs.threads[task.pid]
        cgroups.move_threads(threads, task.cores)
        core.restore_process(leader, task.cores[0])
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
        mappings = mapping.survey(leader.pid)
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
