# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a restore builds on: nothing, so that all is made anew, or processes that are there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Container, Optional, Protocol, Tuple

from .creation import carry_out
from .errors import RestoreError
from .images.chain import Chain, open_chain
from .options import RestoreOptions
from .resources import pstree, zombies
from .resources.cgroups import CgroupsRestore
from .resources.files.restore import FilesRestore
from .resources.memory.family import FamilyMemory
from .resources.memory.inheritance import Content
from .resources.memory.restore import Emptied
from .source import Inherited, Source, TaskImages
from .tracee.stubs import Stubs


@dataclass(frozen=True)
class MemoryFigures:
    """Counts of pages, for the stats image."""

    read: int
    """From the images."""
    compared: int = 0
    """That were looked at for a copy in the process that forks the one that has them."""
    shared: int = 0
    """That were not read because they are shared so."""


class Building(Protocol):
    """The processes of a tree while they come to be."""

    def create(self, cgroups: CgroupsRestore) -> None:
        """Let all processes be there, each in its session, group and cgroups. Raises RestoreError."""

    def fill(self, task: TaskImages) -> None:
        """Give TASK the content of its memory, unless it has it. Raises OSError, RestoreError."""

    def settle(self, task: TaskImages) -> None:
        """Complete the memory of TASK, which forks no more. Raises OSError, RestoreError."""

    def figures(self) -> MemoryFigures:
        """Return the counts."""


class Basis(Protocol):
    """What a restore builds on."""

    stubs: Stubs

    @property
    def numbers(self) -> Container[int]:
        """The PIDs that are in use because they are these processes'."""

    def open(self, images_dir: str) -> Chain:
        """Return the images. Raises ChainError."""

    def begin(
        self, source: Source, inherited: Inherited, options: RestoreOptions, files: FilesRestore, emptied: Optional[Emptied]
    ) -> Building:
        """Make what no other thread of ours may run beside, with the descriptors INHERITED. Raises RestoreError.

        EMPTIED is told of what the processes have of the images, as soon as they have it.
        """


class Anew:
    """The basis that is nothing: all is made from the images."""

    numbers: Tuple[int, ...] = ()

    def __init__(self) -> None:
        self.stubs = Stubs()

    def open(self, images_dir: str) -> Chain:
        """Return the images with all their parents."""
        return open_chain(images_dir, verify=False)

    def begin(
        self, source: Source, inherited: Inherited, options: RestoreOptions, files: FilesRestore, emptied: Optional[Emptied]
    ) -> Building:
        """Create the first process, with an empty address space."""
        contents = {task.pid: Content(task.mm, task.extents, task.cores[0].tc) for task in source.tasks}
        family = FamilyMemory(contents, inherited, files.local, emptied, options.progress.add)
        try:
            root = self.stubs.create_root(pstree.first(source.hierarchy, options.shell_job), inherited.descriptors, options.restore_sibling)
            family.clear(root)
            root.call("close_range", 0, inherited.descriptors[0] - 1, 0)
            for namespace, kind in inherited.namespaces:
                root.call("setns", namespace, kind)
        except OSError as error:
            raise _not_created(error) from error
        return _Anew(self.stubs, source, options, files, family)


class _Anew:
    """A tree that is made from nothing but its first process."""

    def __init__(self, stubs: Stubs, source: Source, options: RestoreOptions, files: FilesRestore, family: FamilyMemory) -> None:
        self._stubs = stubs
        self._source = source
        self._shell_job = options.shell_job
        self._files = files
        self._family = family

    def create(self, cgroups: CgroupsRestore) -> None:
        """Create all other processes, and fill those that others inherit from."""
        source, stubs = self._source, self._stubs
        tasks = {task.pid: task for task in source.tasks}
        if cgroups.together([task.cores[0] for task in source.tasks]):  # memory counts for the cgroup that it is filled in
            self._family.compare(pstree.makers(source.hierarchy, self._shell_job))
        try:
            for step in pstree.creation_plan(source.hierarchy, self._shell_job):
                if step.call in pstree.FORKS and self._family.bequeaths(step.argument):
                    cgroups.move_process(stubs.leaders[step.actor], tasks[step.actor].cores[0])
                    self.fill(tasks[step.actor])
                carry_out(step, stubs, source.shared, source.exit_signals, self._files.lead)
            self._files.attach(stubs.leaders)
            for process in source.hierarchy.tasks:
                if process.pid in source.zombies:
                    zombies.restore(stubs, process.pid, source.zombies[process.pid], process.ppid)
        except OSError as error:
            raise _not_created(error) from error
        for task in source.tasks:
            cgroups.move_process(stubs.leaders[task.pid], task.cores[0])

    def fill(self, task: TaskImages) -> None:
        """Read what TASK does not inherit."""
        self._family.fill(self._stubs.leaders[task.pid])

    def settle(self, task: TaskImages) -> None:
        """Complete the memory of TASK."""
        self._family.settle(self._stubs.leaders[task.pid])

    def figures(self) -> MemoryFigures:
        """Return the counts."""
        return MemoryFigures(self._family.read, self._family.compared, self._family.shared)


def _not_created(error: OSError) -> RestoreError:
    return RestoreError(f"the processes cannot be created ({error}); see whether a limit on processes or memory is reached")
