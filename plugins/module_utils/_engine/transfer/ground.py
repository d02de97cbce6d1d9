# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The ground: the processes of a tree that is still to come, with the memory that has come already.

They are stubs as every restore makes them, made at the first round, whose private anonymous mappings are at their final
addresses and follow those of the tree from round to round. The restore at the end takes them as they are, where any other
makes its own and reads their memory from images.
"""

from __future__ import annotations

import os
import resource
import struct
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..basis import MemoryFigures
from ..creation import carry_out
from ..errors import MoveError, RestoreError
from ..images.chain import Chain
from ..images.pagemap import PAGE_SIZE
from ..images.ranges import Range
from ..options import RestoreOptions
from ..resources import attributes, pstree, sharing, zombies
from ..resources.cgroups import CgroupsRestore
from ..resources.files.restore import FilesRestore
from ..resources.memory import restore as memory
from ..resources.memory.mm import restore_mm
from ..source import Inherited, Source, TaskImages
from ..tracee.calls import Call
from ..tracee.stubs import Stubs
from ..tracee.tracee import Tracee
from .ground_memory import GroundMemory, Piece, is_ground
from .received import ReceivedChain
from .shape import Member, Shape, hierarchy

_ALL_DESCRIPTORS = (1 << 32) - 1
_RLIMIT = struct.Struct("<2Q")


class Ground:
    """The stubs of a tree to come. A context manager, as the stubs are: unless they were let go, nothing of them is left."""

    def __init__(self, shell_job: bool = False) -> None:
        self._shell_job = shell_job
        self.stubs = Stubs()
        self._shape: Shape = ()
        self._memory: Dict[int, GroundMemory] = {}
        self._chain: Optional[ReceivedChain] = None

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *exc: object) -> None:
        self._drop()

    def _drop(self) -> None:
        for one in self._memory.values():
            one.close()
        self._memory.clear()
        self._shape = ()
        self.stubs.__exit__()

    @property
    def numbers(self) -> Tuple[int, ...]:
        """The PIDs that are in use because they are the ground's."""
        return tuple(self.stubs.leaders)

    def follow(self, shape: Shape, layouts: Mapping[int, Sequence[Any]]) -> bool:
        """Let there be the processes of SHAPE, and in each of LAYOUTS (by pid) its private anonymous mappings, as vma_entry messages.

        Returns False when what had come before is lost: the tree has changed too much. Raises RestoreError.
        """
        kept = not self._shape or shape == self._shape or self._adjust(shape)
        if not kept:
            self._drop()
        try:
            if not self._shape:
                self._create(shape, list(layouts.values()))
            self._shape = shape
            for pid, vmas in layouts.items():
                self._memory[pid].follow(vmas)
        except OSError as error:
            raise RestoreError(f"the processes to come cannot be prepared ({error}); see whether a limit on memory is reached") from error
        return kept

    def write(self, pid: int, pieces: Sequence[Piece], data: memoryview) -> None:
        """Put DATA, the content of PIECES one behind the other, into process PID. Raises MoveError for what is not to be there."""
        self._of(pid).write(pieces, data)

    def clear(self, pid: int, pieces: Sequence[Piece]) -> None:
        """Let there be zeros in process PID where PIECES tell. Raises MoveError for what is not to be there, RestoreError."""
        try:
            self._of(pid).clear(pieces)
        except OSError as error:
            raise RestoreError(f"memory of process {pid} cannot be emptied ({error}); move the tree again") from error

    def _of(self, pid: int) -> GroundMemory:
        if pid not in self._memory:
            raise MoveError(f"pages came for process {pid}, which is none of the tree; see who is at the other end")
        return self._memory[pid]

    def settle(self) -> None:
        """Take note that a round is over: what came is there."""
        for one in self._memory.values():
            one.settle()

    def _create(self, shape: Shape, layouts: List[Sequence[Any]]) -> None:
        tree = hierarchy(shape)
        shared, signals = _inherited(shape)
        obstacles = pstree.check_restore(tree, self._shell_job)
        obstacles = obstacles or pstree.check_helpers(tree, self._shell_job) + sharing.check(tree, self._shell_job, shared)
        if obstacles:
            raise RestoreError("; ".join(map(str, obstacles)), obstacles)
        root = self.stubs.create_root(pstree.first(tree, self._shell_job), ())
        parking = memory.find_parking(layouts, root)
        memory.clear(root, parking)
        root.call("close_range", 0, _ALL_DESCRIPTORS, 0)
        for step in pstree.creation_plan(tree, self._shell_job):
            carry_out(step, self.stubs, shared, signals)
        self._memory.update({pid: GroundMemory(leader, parking) for pid, leader in self.stubs.leaders.items()})

    def _adjust(self, shape: Shape) -> bool:
        """End the processes that SHAPE has no more, and make those that it has besides; return whether it is as it is to be now."""
        wanted = {one.pid: one for one in shape}
        for one in reversed(self._shape):
            if one.pid not in wanted:
                self._end(one)
        if self._shape[0].pid not in wanted or any(one != wanted.get(one.pid, one) for one in self._shape):
            return False
        tree = hierarchy(shape)
        if pstree.check_restore(tree, self._shell_job) or pstree.helpers(tree, self._shell_job):
            return False
        known = set(self.stubs.leaders)
        for step in pstree.creation_plan(tree, self._shell_job):
            subject = step.argument if step.call in (pstree.FORK, pstree.FORK_BESIDE) else step.actor
            if subject not in known:
                carry_out(step, self.stubs, *_inherited(shape))
                if subject not in self._memory:
                    self._memory[subject] = self._emptied(step)
        return pstree.read_tree([one.pid for one in shape]) == tree

    def _end(self, one: Member) -> None:
        self._memory.pop(one.pid).close()
        self.stubs.end(one.pid, 0)
        if one.ppid in self.stubs.leaders:
            parent = self.stubs.leaders[one.ppid]
            parent.call("wait4", one.pid, 0, 0x40000000, 0)
            self.stubs.take_exit_signal(one.ppid, one.exit_signal)

    def _emptied(self, step: pstree.Step) -> GroundMemory:
        """Return the memory of the process that STEP has just made, a copy of its maker's, with nothing in it."""
        stub, parking = self.stubs.leaders[step.argument], self._memory[step.actor].parking
        memory.unmap(stub, parking, ())
        return GroundMemory(stub, parking)

    # what restore asks of what it builds on

    def open(self, images_dir: str) -> Chain:
        """Return the images of the last round as a chain whose other pages are here already."""
        self._chain = ReceivedChain.open(images_dir)
        return self._chain

    def begin(
        self, source: Source, inherited: Inherited, options: RestoreOptions, files: FilesRestore, emptied: Optional[memory.Emptied]
    ) -> _Building:
        """Let the processes be those of SOURCE, with the descriptors INHERITED. Raises RestoreError."""
        if not self.follow(_shape_of(source), {}):
            raise RestoreError("the tree has changed too much since the last round; move it again")
        given = set()
        try:
            self.stubs.hurry()
            for task in source.tasks:
                if task.files_id not in given:
                    given.add(task.files_id)
                    _give(self.stubs.leaders[task.pid], inherited.descriptors)
            for namespace, kind in inherited.namespaces:
                for task in source.tasks:
                    self.stubs.leaders[task.pid].call("setns", namespace, kind)
            for step in pstree.creation_plan(source.hierarchy, options.shell_job):
                subject = step.argument if step.call in (pstree.FORK, pstree.FORK_BESIDE) else step.actor
                if subject in source.zombies:
                    carry_out(step, self.stubs, source.shared, source.exit_signals)
            files.attach(self.stubs.leaders)
            for process in source.hierarchy.tasks:
                if process.pid in source.zombies:
                    zombies.restore(self.stubs, process.pid, source.zombies[process.pid], process.ppid)
        except OSError as error:
            raise RestoreError(f"the processes cannot be completed ({error}); move the tree again") from error
        return _Building(self, source, inherited, files, emptied)

    def counted_on(self, pid: int) -> List[Range]:
        """Return what the images of the last round leave to the rounds before, of the memory of PID."""
        return self._chain.counted_on(f"pagemap-{pid}") if self._chain else []

    def take_memory(self, pid: int) -> GroundMemory:
        """Return the memory of PID."""
        return self._memory[pid]


class _Building:
    """The processes of a ground on their way to those of SOURCE."""

    def __init__(
        self, ground: Ground, source: Source, inherited: Inherited, files: FilesRestore, emptied: Optional[memory.Emptied]
    ) -> None:
        self._ground = ground
        self._source = source
        self._inherited = inherited
        self._files = files
        self._emptied = emptied
        self._layouts: Dict[int, memory.Layout] = {}
        self._read = 0

    def create(self, cgroups: CgroupsRestore) -> None:
        """Put the processes into their cgroups; they are there."""
        for task in self._source.tasks:
            cgroups.move_process(self._ground.stubs.leaders[task.pid], task.cores[0])

    def fill(self, task: TaskImages) -> None:
        """Complete the content of a process from the images of the last round. Raises OSError, RestoreError."""
        leader = self._ground.stubs.leaders[task.pid]
        restore_mm(leader, task.mm, self._files.local(task.mm.exe_file_id))
        attributes.restore_page_size(leader, task.cores[0].tc, task.mm)
        own = self._ground.take_memory(task.pid)
        own.keep_clear_of(task.mm.vmas)
        own.follow([vma for vma in task.mm.vmas if is_ground(vma)])
        replaced = [(one.start, one.start + one.pages * PAGE_SIZE) for one in task.extents]
        own.keep_only(self._ground.counted_on(task.pid), replaced)
        own.close()
        layout = self._layouts[task.pid] = memory.lay_out(task.mm, task.extents)
        pages, local = self._inherited.pages, self._inherited.of_mapping
        self._read += memory.fill(leader, layout, pages, local, there=is_ground, emptied=self._emptied)

    def settle(self, task: TaskImages) -> None:
        """Complete the memory of a process."""
        memory.settle(self._ground.stubs.leaders[task.pid], task.mm, self._layouts[task.pid])

    def figures(self) -> MemoryFigures:
        """Return the counts."""
        return MemoryFigures(self._read)


def _inherited(shape: Shape) -> Tuple[Dict[int, Tuple[int, int]], Dict[int, int]]:
    """Return what the processes of SHAPE share, and their exit signals, as `carry_out` takes them."""
    return {one.pid: (one.files, one.fs) for one in shape}, {one.pid: one.exit_signal for one in shape}


def _shape_of(source: Source) -> Shape:
    """Return the shape of the tree in the images."""
    first_files: Dict[int, int] = {}
    first_fs: Dict[int, int] = {}
    processes = {process.pid: process for process in source.hierarchy.tasks}
    found = []
    for task in source.tasks:
        one = processes[task.pid]
        files, fs = first_files.setdefault(task.files_id, task.pid), first_fs.setdefault(task.fs_id, task.pid)
        found.append(Member(one.pid, one.ppid, one.pgid, one.sid, files, fs, attributes.restored_exit_signal(task.cores[0])))
    return tuple(found)


def _give(stub: Tracee, descriptors: Sequence[int]) -> None:
    """Give STUB our DESCRIPTORS, under the same numbers, and no others. Raises OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _RLIMIT.pack(soft & (1 << 64) - 1, hard & (1 << 64) - 1)
    calls = [
        Call("close_range", (0, _ALL_DESCRIPTORS, 0)),
        Call("prlimit64", (0, resource.RLIMIT_NOFILE, limit, 0)),
        Call("pidfd_open", (os.getpid(), 0)),  # number 0, and each copy gets 1
    ]
    for fd in descriptors:
        calls += [Call("pidfd_getfd", (0, fd, 0)), Call("dup3", (1, fd, 0)), Call("close", (1,))]
    calls.append(Call("close", (0,)))
    for reply in stub.batch(calls):
        reply.check()
