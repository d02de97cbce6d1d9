# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The process tree: who is whose child, in which process group and session (pstree image; credentials(7), setsid(2), setpgid(2)).

A session cannot be joined: a process has that of its parent at the time of the fork, or makes its own. So the order of
forks and setsid calls is what restores them; groups are joined when all processes are there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import Obstacle
from ..images.schema import message
from ..kernel import procfs

FORK, SETSID, SETPGID = "fork", "setsid", "setpgid"
_SHELL_JOB = "use shell_job on both sides, and the session and group of the restore are taken instead"
_WHOLE_TREE = "dump the tree from the process that holds all of the session"


@dataclass(frozen=True)
class Process:
    """One process of a tree; its parent, group and session by their numbers."""

    pid: int
    ppid: int
    """0 for the root."""
    pgid: int
    sid: int
    threads: Tuple[int, ...]
    """Its threads, the leader first."""


@dataclass(frozen=True)
class Pstree:
    """A tree of processes: the root first, parents before their children."""

    tasks: Tuple[Process, ...]

    @property
    def root(self) -> Process:
        return self.tasks[0]

    def children(self, pid: int) -> List[Process]:
        """Return the children of PID."""
        return [task for task in self.tasks[1:] if task.ppid == pid]

    def outside(self, number: int) -> bool:
        """Tell whether a session or group of that NUMBER was made by a process that is not in the tree."""
        return all(task.pid != number for task in self.tasks)


class Step(NamedTuple):
    """One step of the creation: process ACTOR makes CALL with ARGUMENT."""

    actor: int
    call: str
    """fork (the argument is the child's PID), setsid (0) or setpgid (the group to be joined)."""
    argument: int


def read_tree(pids: Sequence[int]) -> Pstree:
    """Return the tree of the processes PIDS, its root first and parents before children. Raises OSError for one that is gone."""
    tasks: List[Process] = []
    for pid in pids:
        stat = procfs.stat(pid)
        tasks.append(Process(pid, stat.ppid if tasks else 0, stat.pgrp, stat.session, tuple(procfs.threads(pid))))
    return Pstree(tuple(tasks))


def write(images: Any, tree: Pstree) -> None:
    """Write the pstree image. Raises ImagesError."""
    entry = message("pstree_entry")
    images.write("pstree", [entry(pid=t.pid, ppid=t.ppid, pgid=t.pgid, sid=t.sid, threads=t.threads) for t in tree.tasks])


def read(images: Any) -> Pstree:
    """Read the pstree image. Raises ImagesError."""
    return Pstree(tuple(Process(e.pid, e.ppid, e.pgid, e.sid, tuple(e.threads)) for e in images.read("pstree")))


def check(pids: Sequence[int], shell_job: bool = True) -> List[Obstacle]:
    """Return the sessions and groups of the running tree PIDS that cannot be made again."""
    try:
        return check_restore(read_tree(pids), shell_job)
    except (FileNotFoundError, ProcessLookupError):
        return []  # one that has just ended: the stop will find who is left


def check_restore(tree: Pstree, shell_job: bool) -> List[Obstacle]:
    """Return the sessions and groups of TREE that cannot be made; those of the root from outside can be with SHELL_JOB."""
    births = _births(tree)
    outside = _outside_session(tree, births)
    found = _session_obstacles(tree, births) + _group_obstacles(tree, outside)
    if outside is not None and not shell_job:
        found.append(Obstacle(tree.root.pid, f"session {outside}", "its leader is not in the tree", _SHELL_JOB))
    return found


def creation_plan(tree: Pstree) -> Iterator[Step]:
    """Yield the steps that make TREE, its root being there already, in our session and group.

    The tree has no obstacles. A session or group of the root that is from outside becomes ours.
    """
    yield from _births_of_children(tree, _births(tree))
    yield from _groups(tree)


def _births(tree: Pstree) -> Dict[int, Set[int]]:
    """Return the sessions that each process must find itself in when it is forked; an empty set where it does not matter."""
    births: Dict[int, Set[int]] = {task.pid: set() for task in tree.tasks}
    sessions = {task.pid: task.sid for task in tree.tasks}
    for task in reversed(tree.tasks):
        if task.sid != task.pid:
            births[task.pid].add(task.sid)
        if task.ppid:
            births[task.ppid] |= births[task.pid] - {sessions[task.ppid]}
    return births


def _outside_session(tree: Pstree, births: Dict[int, Set[int]]) -> Optional[int]:
    """Return the session from outside that the root is in, or was in when it forked; None where there is none."""
    sessions = sorted(sid for sid in births[tree.root.pid] if tree.outside(sid))
    return sessions[0] if sessions else None


def _session_obstacles(tree: Pstree, births: Dict[int, Set[int]]) -> List[Obstacle]:
    """Return the processes whose children are in sessions that it cannot have been in one after the other."""
    found = []
    for task in tree.tasks:
        foreign = sorted(births[task.pid] - {task.sid}) if task.sid != task.pid else sorted(births[task.pid])[1:]
        inside = [] if task.ppid else [sid for sid in births[task.pid] if not tree.outside(sid)]
        for sid in sorted({*foreign, *inside}):
            why = f"processes below it are in session {sid}, and it can't have been in that when it made them"
            found.append(Obstacle(task.pid, f"session {task.sid}", why, _WHOLE_TREE))
    return found


def _births_of_children(tree: Pstree, births: Dict[int, Set[int]]) -> Iterator[Step]:
    waiting = [tree.root]
    while waiting:
        task = waiting.pop()
        children = tree.children(task.pid)
        early = [child for child in children if births[child.pid] - {task.sid}]  # born in the session that their parent left
        yield from (Step(task.pid, FORK, child.pid) for child in early)
        if task.sid == task.pid:
            yield Step(task.pid, SETSID, 0)
        yield from (Step(task.pid, FORK, child.pid) for child in children if child not in early)
        waiting += reversed(children)


def _group_obstacles(tree: Pstree, outside: Optional[int]) -> List[Obstacle]:
    """Return the processes whose group cannot be made; one group of the session OUTSIDE may be from outside too."""
    processes = {task.pid: task for task in tree.tasks}
    ours = next((task.pgid for task in tree.tasks if task.sid == outside and task.pgid not in processes), None)
    found = []
    for task in tree.tasks:
        leader = processes.get(task.pgid)
        if leader is None and (task.sid != outside or task.pgid != ours):
            found.append(_no_group(task, "its first member is not in the tree"))
        elif leader is not None and leader.sid != task.sid:
            found.append(_no_group(task, "its first member is in another session"))
    return found


def _no_group(task: Process, why: str) -> Obstacle:
    remedy = "dump the tree from the process that made the group, or wait until it is gone"
    return Obstacle(task.pid, f"process group {task.pgid}", why, remedy)


def _groups(tree: Pstree) -> Iterator[Step]:
    """Yield the steps that make the groups, then those that join them."""
    made = {task.pid for task in tree.tasks} & {task.pgid for task in tree.tasks}
    movable = [task for task in tree.tasks if task.sid != task.pid]
    yield from (Step(task.pid, SETPGID, task.pid) for task in movable if task.pid in made)
    waiting = [task for task in movable if task.pid in made and task.pgid != task.pid]
    joining = [task for task in movable if task.pid not in made]
    while waiting:  # who made a group must stay in it until all others are in
        kept = {task.pgid for task in waiting}
        free = [task for task in waiting if task.pid not in kept] or waiting
        joining += free
        waiting = [task for task in waiting if task not in free]
    yield from (Step(task.pid, SETPGID, task.pgid if task.pgid in made else os.getpgrp()) for task in joining)
