# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The process tree: who is whose child, in which process group and session (pstree image; credentials(7), setsid(2), setpgid(2)).

A session cannot be joined: a process has that of its maker at the time of the fork, or makes its own. So the order of
forks and setsid calls is what restores them; groups are joined when all processes are there. Where the process that made
a session or group has ended, a helper with its number takes its part, and ends before anything runs. A process is made
by its parent, or by the leader of its session as a sibling of that (CLONE_PARENT) where the parent never was in it. One that
leads a session may have been in another before: that its children are in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import Obstacle
from ..images.schema import message
from ..kernel import procfs

FORK, FORK_BESIDE, SETSID, SETPGID, END = "fork", "fork beside", "setsid", "setpgid", "end"
FORKS = (FORK, FORK_BESIDE)
_SHELL_JOB = "use shell_job, and the session and group of the restore are taken instead"
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
        return [task for task in self.tasks if task.ppid == pid]

    def outside(self, number: int) -> bool:
        """Tell whether a session or group of that NUMBER was made by a process that is not in the tree."""
        return all(task.pid != number for task in self.tasks)

    def session(self, pid: int) -> Optional[int]:
        """Return the session of PID, None for the parent of the root."""
        return next((task.sid for task in self.tasks if task.pid == pid), None)


class Step(NamedTuple):
    """One step of the creation: process ACTOR makes CALL with ARGUMENT."""

    actor: int
    call: str
    """fork (the argument is the child's PID), fork beside (the sibling's), setsid (0), setpgid (the group), end (its parent)."""
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


def check(root: int) -> List[Obstacle]:
    """Return the sessions and groups of the running tree under ROOT that cannot be made again."""
    try:
        return check_restore(read_tree(list(procfs.descendants(root))), shell_job=True)
    except (FileNotFoundError, ProcessLookupError):
        return []  # one that has just ended: the stop will find who is left


def check_restore(tree: Pstree, shell_job: bool) -> List[Obstacle]:
    """Return the sessions and groups of TREE that cannot be made; those of the root from outside become ours with SHELL_JOB."""
    ours = _our_session(tree) if shell_job else None
    found = []
    for sid, parents in _lost_sessions(tree, ours).items():
        if not sid:
            found.append(Obstacle(tree.root.pid, "session", "its leader is in another PID namespace", _SHELL_JOB))
        elif len(parents) > 1:
            found.append(Obstacle(sorted(parents)[1], f"session {sid}", "its leader has ended, and several processes hold it", _WHOLE_TREE))
    if found:
        return found
    whole = _with_helpers(tree, ours)
    return _session_obstacles(whole, ours) + _group_obstacles(whole, ours)


def check_helpers(tree: Pstree, shell_job: bool) -> List[Obstacle]:
    """Return the numbers of sessions and groups of TREE, which has no obstacles, that a helper cannot have: others use them."""
    wanted = {helper.pid: helper for helper in helpers(tree, shell_job)}
    used = {number for pid in (procfs.processes() if wanted else ()) for number in procfs.numbers(pid)}
    what = {True: "session", False: "process group"}
    return [
        Obstacle(0, f"{what[helper.sid == pid]} {pid}", "its number is in use on this machine", _SHELL_JOB)
        for pid, helper in wanted.items()
        if pid in used or os.path.exists(f"/proc/{pid}")
    ]


def helpers(tree: Pstree, shell_job: bool) -> Tuple[Process, ...]:
    """Return the processes that take the parts of leaders who have ended. TREE has no obstacles."""
    return _with_helpers(tree, _our_session(tree) if shell_job else None).tasks[len(tree.tasks) :]


def first(tree: Pstree, shell_job: bool) -> int:
    """Return the process that is created first: the root of TREE, or the helper that makes it."""
    whole = _with_helpers(tree, _our_session(tree) if shell_job else None)
    return _founder(whole, _births(whole)).pid


def creation_plan(tree: Pstree, shell_job: bool) -> Iterator[Step]:
    """Yield the steps that make TREE, the `first` process being there already, in our session and group.

    The tree has no obstacles. With SHELL_JOB a session or group of the root that is from outside becomes ours.
    """
    ours = _our_session(tree) if shell_job else None
    whole = _with_helpers(tree, ours)
    yield from _making(whole)
    yield from _groups(whole)
    yield from (Step(helper.pid, END, helper.ppid) for helper in reversed(whole.tasks[len(tree.tasks) :]))


def makers(tree: Pstree, shell_job: bool) -> Dict[int, int]:
    """Return which process forks each of those that `creation_plan` makes."""
    return {step.argument: step.actor for step in creation_plan(tree, shell_job) if step.call in FORKS}


def _our_session(tree: Pstree) -> Optional[int]:
    """Return the session from outside that the root is in, or was in when it forked; None where there is none."""
    sessions = sorted(sid for sid in _births(tree)[tree.root.pid] if tree.outside(sid))
    return sessions[0] if sessions else None


def _our_group(tree: Pstree, ours: Optional[int]) -> Optional[int]:
    """Return the group from outside that becomes ours, one of session OURS; None where there is none."""
    return next((task.pgid for task in tree.tasks if task.sid == ours and tree.outside(task.pgid)), None)


def _lost_sessions(tree: Pstree, ours: Optional[int]) -> Dict[int, Set[int]]:
    """Return the sessions whose leaders have ended, but OURS, each with the parents of those who did not get it from theirs.

    Of several parents those that lead sessions of their own, from the bottom up, count as members who have left it.
    """
    places = {task.pid: place for place, task in enumerate(tree.tasks)}
    found: Dict[int, Set[int]] = {}
    for task in tree.tasks:
        if task.sid != ours and tree.outside(task.sid) and tree.session(task.ppid) != task.sid:
            found.setdefault(task.sid, set()).add(task.ppid)
    for sid, parents in found.items():
        while len(parents) > 1:
            leaders = [tree.tasks[places[pid]] for pid in parents if pid in places and tree.session(pid) == pid]
            if not leaders:
                break
            lowest = max(leaders, key=lambda task: places[task.pid])
            parents.remove(lowest.pid)
            if tree.session(lowest.ppid) != sid:
                parents.add(lowest.ppid)
    return found


def _with_helpers(tree: Pstree, ours: Optional[int]) -> Pstree:
    """Return TREE and, behind its tasks, the helpers: those that lead sessions, then those that lead groups."""
    leaders = [Process(sid, min(parents), sid, sid, ()) for sid, parents in _lost_sessions(tree, ours).items()]
    whole = Pstree((*tree.tasks, *leaders))
    groups: Dict[int, Process] = {}
    for task in tree.tasks:
        if whole.outside(task.pgid) and task.pgid and task.pgid != _our_group(whole, ours):
            groups.setdefault(task.pgid, Process(task.pgid, task.pid, task.pgid, task.sid, ()))
    return Pstree((*whole.tasks, *groups.values()))


def _is_beside(tree: Pstree, task: Process, births: Dict[int, Set[int]]) -> bool:
    """Tell whether TASK is made by the leader of the session that it is born in, a sibling, because its parent is not in that."""
    leads = any(other.pid in births[task.pid] and other.pid != task.pid and other.ppid == task.ppid for other in tree.tasks)
    return leads and tree.session(task.ppid) not in births[task.pid]


def _founder(tree: Pstree, births: Dict[int, Set[int]]) -> Process:
    return next(task for task in tree.children(0) if not _is_beside(tree, task, births))


def _births(tree: Pstree) -> Dict[int, Set[int]]:
    """Return the sessions that each process must find itself in when it is forked; empty where it does not matter."""
    births: Dict[int, Set[int]] = {task.pid: set() for task in tree.tasks}
    sessions = {task.pid: task.sid for task in tree.tasks}
    for task in reversed(tree.tasks):
        if task.sid != task.pid:
            births[task.pid].add(task.sid)
    for task in sorted(tree.tasks, key=_depths(tree).__getitem__, reverse=True):
        if task.ppid and not _is_beside(tree, task, births):
            births[task.ppid] |= births[task.pid] - {sessions[task.ppid]}
    return births


def _depths(tree: Pstree) -> Dict[Process, int]:
    """Return how far each process is from the root; helpers come behind all tasks, wherever they belong."""
    depths: Dict[int, int] = {0: 0}
    found = {}
    for task in tree.tasks:
        found[task] = depths[task.pid] = depths[task.ppid] + 1
    return found


def _session_obstacles(tree: Pstree, ours: Optional[int]) -> List[Obstacle]:
    """Return the processes whose children are in sessions that it cannot have been in one after the other."""
    births = _births(tree)
    founder = _founder(tree, births)
    found = []
    for task in tree.tasks:
        foreign = sorted(births[task.pid] - {task.sid}) if task.sid != task.pid else sorted(births[task.pid])[1:]
        unmade = [sid for sid in births[task.pid] if sid != ours] if task == founder else []
        for sid in sorted({*foreign, *unmade}):
            why = f"processes below it are in session {sid}, and it can't have been in that when it made them"
            found.append(Obstacle(task.pid, f"session {task.sid}", why, _WHOLE_TREE))
    return found


def _making(tree: Pstree) -> Iterator[Step]:
    """Yield the forks and what makes sessions."""
    births = _births(tree)
    waiting = [_founder(tree, births)]
    while waiting:
        task = waiting.pop()
        children = [child for child in tree.children(task.pid) if not _is_beside(tree, child, births)]
        early = [child for child in children if births[child.pid] - {task.sid}]  # born in the session that their parent left
        yield from (Step(task.pid, FORK, child.pid) for child in early)
        if task.sid == task.pid:
            yield Step(task.pid, SETSID, 0)
        beside = [other for other in tree.children(task.ppid) if _is_beside(tree, other, births)]
        siblings = [other for other in beside if task.pid in births[other.pid]]
        yield from (Step(task.pid, FORK_BESIDE, other.pid) for other in siblings)
        yield from (Step(task.pid, FORK, child.pid) for child in children if child not in early)
        waiting += reversed([*siblings, *children])


def _group_obstacles(tree: Pstree, ours: Optional[int]) -> List[Obstacle]:
    """Return the processes whose group cannot be made; one group of the session OURS may be from outside."""
    processes = {task.pid: task for task in tree.tasks}
    our_group = _our_group(tree, ours)
    found = []
    for task in tree.tasks:
        leader = processes.get(task.pgid)
        if leader is None and (task.sid != ours or task.pgid != our_group):
            found.append(_no_group(task, "its first member is in another PID namespace"))
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
