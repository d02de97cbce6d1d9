# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree is restored from: its images, and the descriptors of ours that its processes get of what these name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Tuple

from .chains.soundness import check_tasks
from .errors import ChainError, UsageError
from .images.chain import Chain, Extent
from .images.shared_objects import VMA_ANON_SHARED, VMA_AREA_SYSVIPC, object_sizes
from .kernel.clone import CLONE_NEWNS, CLONE_NEWUTS
from .options import RestoreOptions
from .resources import attributes, pstree, seccomp, uts, zombies
from .resources.files.restore import FilesRestore
from .resources.memory import mapping
from .resources.memory.shared import fill as fill_object
from .resources.memory.shared import new_anonymous
from .resources.mounts.restore import MountsRestore


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


def read(options: RestoreOptions, chain: Chain) -> Source:
    """Read the images of CHAIN, and verify all but the pages, which takes time. Raises ChainError, ImagesError."""
    if options.auto_dedup and options.track_mem:
        raise UsageError("auto_dedup and track_mem exclude each other: no dump can build on images that are freed; leave one out")
    chain.verify_images()
    if chain.obstacle():
        raise ChainError(chain.obstacle())
    check_tasks(chain.top)
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
        names = uts.make(source.chain.top.images, [task.pid for task in source.tasks])
        self.namespaces = tuple((files.keep(fd), kind) for fd, kind in ((namespace, CLONE_NEWNS), (names, CLONE_NEWUTS)) if fd is not None)
        """A descriptor of each namespace that the tree is to have and that is not ours, with its CLONE_NEW… flag."""
        given = [fd for fd, _kind in self.namespaces]
        wanted = {*mapped, *opened, *programs, *files.inherited(), *self.pages.values(), *self._shared.values(), *given}
        self.descriptors = tuple(sorted(wanted - {-1}))
        """All of them: above every number that a task wants for its own."""

    def of_mapping(self, vma: Any) -> int:
        """Return the descriptor of what VMA, a vma_entry, maps; -1 where that is nothing."""
        if vma.status & VMA_AREA_SYSVIPC:
            return -1
        if vma.status & VMA_ANON_SHARED:
            return self._shared[vma.shmid]
        if vma.status & mapping.VMA_AREA_SOCKET:
            return self._files.local(vma.shmid)
        if vma.status & (mapping.VMA_FILE_PRIVATE | mapping.VMA_FILE_SHARED):
            access = vma.fdflags & os.O_ACCMODE if vma.HasField("fdflags") else os.O_RDONLY
            return self._files.local(vma.shmid, access)
        return -1
