# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""pre-dump: write the memory of a tree ahead of its dump, while it runs, so that the dump has little left to write.

Each page is write-protected before it is read. What was read while it changed is told as changed by the next dump, and
written again.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Sequence

from . import untouched
from .clock import Clock
from .dedup import dedup
from .dump import Work, common_tables, describe, refuse, report
from .errors import TargetError
from .images.chain import open_chain
from .images.directory import DumpDirectory
from .images.manifest import PRE_DUMP
from .kernel.fdinfo import descriptors, fdinfo
from .kernel.procfs import GONE, goes_on
from .options import DumpOptions
from .parent import open_parent, reading_parent
from .resources.files.dump import FilesDump
from .resources.inventory import inventory
from .resources.memory.dump import MemoryDump
from .resources.memory.sysv import SysvDump
from .resources.mounts.dump import MountsDump
from .results import DumpResult
from .stats import write_dump_stats
from .target import check_target
from .tracee.freeze import FrozenTree
from .tracking import soft_dirty
from .tracking.trackers import Trackers
from .transfer.page_client import PageClient


def pre_dump(options: DumpOptions, log: logging.Logger) -> DumpResult:
    """Write the memory of the tree under options.tree into options.images_dir, to be the parent of a dump. It runs on.

    Raises EngineError; then nothing that could be taken for a parent is left.
    """
    clock = Clock()
    options = replace(options, track_mem=True, leave_running=True)
    directory = DumpDirectory(options.images_dir, options.force)
    directory.check()
    pids = check_target(options.tree)
    with ExitStack() as stack:
        stack.enter_context(reading_parent(options))
        parent = open_parent(options)
        trackers = stack.enter_context(Trackers(options, parent, log))
        refuse(options, pids, trackers)
        stack.enter_context(directory)
        if parent is not None:
            directory.link_parent(str(options.prev_images_dir))
        trackers.prepare(pids)
        files, mounts = stack.enter_context(FilesDump(options)), stack.enter_context(MountsDump(options))
        server = stack.enter_context(PageClient(options.page_server, pids, parent)) if options.page_server else None
        memory = stack.enter_context(MemoryDump(options, directory, parent, log, server))
        work = Work(options, directory, parent, trackers, files, mounts, SysvDump(), memory, clock, common_tables(options))
        scan(work, pids)
        memory.write_running()
        pages = memory.write_images()
        trackers.explain()
        manifest = describe(work, PRE_DUMP, ())
        manifest = directory.commit(inventory(manifest.id, track_mem=True, pre_dump=True), manifest, pages)
        trackers.remember(manifest.id)
    freed = dedup(options.images_dir, wait=True).bytes_freed if options.auto_dedup and parent is not None else 0
    untouched.remember(open_chain(options.images_dir, verify=False))
    result = report(work, manifest, tuple(pids), freed)
    log.info("Wrote memory of processes %s ahead", ", ".join(map(str, pids)))
    write_dump_stats(options.work_dir or options.images_dir, result)
    return result


def scan(work: Work, pids: Sequence[int]) -> None:
    """Find what is to be written and reset the trackers: in a short stop where that can't be one step, else without any."""
    if work.trackers.arming == soft_dirty.NAME or any(_reads_directly(pid) for pid in pids):
        work.clock.mark("freezing")
        with FrozenTree(work.options.tree, work.options.timeout) as tree:
            work.clock.mark("frozen")
            for task in tree.tasks:
                work.memory.scan_running(task.pid, work.trackers)
        work.clock.mark("thawed")
        return
    for name in ("freezing", "frozen", "thawed", "taken"):
        work.clock.mark(name)
    for pid in pids:
        try:
            work.memory.scan_running(pid, work.trackers)
        except GONE as error:
            if pid == work.options.tree or goes_on(pid):
                raise TargetError(f"process {pid} has ended, or cannot be looked at ({error}); see that the service runs") from error


def _reads_directly(pid: int) -> bool:
    """Tell whether PID has a file open with O_DIRECT: a device may write then into a page that was protected meanwhile.

    It runs: what it closes just now is none, and nor is any of a process that has ended.
    """
    with suppress(*GONE):
        for fd in descriptors(pid):
            with suppress(*GONE):
                if fdinfo(pid, fd).status_flags & os.O_DIRECT:
                    return True
    return False
