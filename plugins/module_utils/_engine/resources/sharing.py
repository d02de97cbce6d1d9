# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What processes, and not only threads, have in common: descriptor table (CLONE_FILES), directories and umask (CLONE_FS); clone(2).

CRIU images: task_kobj_ids_entry.{files_id,fs_id}, the same for those who share it. It is got at the fork only, so a process
shares it with its parent or with nobody but its own children.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Sequence

from ..errors import Obstacle
from ..kernel import procfs
from ..kernel.clone import CLONE_FILES, CLONE_FS
from ..kernel.kcmp import KCMP_FILES, KCMP_FS, group, kcmp
from .pstree import FORK_BESIDE, Pstree, creation_plan

_KINDS = {"descriptor table": KCMP_FILES, "working directory": KCMP_FS}
_REMEDY = "wait until it executes another program or ends, then dump it"


def obstacles(pids: Sequence[int]) -> List[Obstacle]:
    """Return what the processes PIDS, the root of their tree first, share in a way that no sequence of forks makes again."""
    try:
        parents = {pid: procfs.stat(pid).ppid for pid in pids}
        return [obstacle for what, kind in _KINDS.items() for obstacle in _of_kind(parents, what, kind)]
    except procfs.GONE:
        return []  # the stop will find who is left


def _of_kind(parents: Mapping[int, int], what: str, kind: int) -> List[Obstacle]:
    pids = list(parents)
    found = []
    if _same(pids[0], parents[pids[0]], kind):
        found.append(Obstacle(pids[0], what, f"it shares that with its parent {parents[pids[0]]}, which is not in the tree", _REMEDY))
    for members in group(kind, [(pid, 0) for pid in pids]):
        sharing = [pids[index] for index in members]
        for pid in [pid for pid in sharing if parents[pid] not in sharing][1:]:
            found.append(Obstacle(pid, what, f"it shares that with process {sharing[0]}, and not with its parent", _REMEDY))
    return found


def _same(pid: int, parent: int, kind: int) -> bool:
    try:
        return parent != 0 and kcmp(pid, parent, kind) == 0
    except (PermissionError, ProcessLookupError):  # a parent that we may not look into, such as the first process of a container
        return False


def fs_ids(pids: Sequence[int]) -> Dict[int, int]:
    """Return, for each of the stopped processes PIDS, the position of the first one that shares its directories, counted from 1."""
    return {pids[index]: members[0] + 1 for members in group(KCMP_FS, [(pid, 0) for pid in pids]) for index in members}


def flags(ids: Mapping[int, Sequence[int]], parent: int, child: int) -> int:
    """Return the CLONE_… flags by which PARENT must make CHILD. IDS: the files_id and fs_id of each process, as the images have them."""
    if parent not in ids or child not in ids:
        return 0
    files, fs = (mine == theirs for mine, theirs in zip(ids[parent], ids[child]))
    return (CLONE_FILES if files else 0) | (CLONE_FS if fs else 0)


def check(tree: Pstree, shell_job: bool, ids: Mapping[int, Sequence[int]]) -> List[Obstacle]:
    """Return the processes of TREE, which has no other obstacles, that share something with others than their parents."""
    beside = {step.argument for step in creation_plan(tree, shell_job) if step.call == FORK_BESIDE}
    found = []
    for position, what in enumerate(_KINDS):
        owners: Dict[int, int] = {}
        for task in (task for task in tree.tasks if task.pid in ids):
            number = ids[task.pid][position]
            inherited = task.pid not in beside and task.ppid in ids and ids[task.ppid][position] == number
            if number in owners and not inherited:
                why = f"it shares that with process {owners[number]}, and not with its parent"
                found.append(Obstacle(task.pid, what, why, "restore with criu"))
            owners.setdefault(number, task.pid)
    return found
