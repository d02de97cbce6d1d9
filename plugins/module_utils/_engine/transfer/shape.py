# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The shape of a tree: which processes it has, and what only their creation can give them."""

from __future__ import annotations

from typing import Dict, NamedTuple, Sequence, Tuple

from ..errors import TargetError
from ..kernel import procfs
from ..kernel.kcmp import KCMP_FILES, KCMP_FS, group
from ..resources import attributes
from ..resources.pstree import Process, Pstree


class Member(NamedTuple):
    """One process of a tree."""

    pid: int
    ppid: int
    """0 for the root."""
    pgid: int
    sid: int
    files: int
    """The first process with its descriptor table."""
    fs: int
    """The first process with its directories."""
    exit_signal: int


Shape = Tuple[Member, ...]
"""The root first, parents before their children; those that have ended are left out."""


def look(pids: Sequence[int]) -> Shape:
    """Return the shape of the tree of PIDS, its root first, which may run: those that have ended, or left it, are left out.

    Raises TargetError when its root has ended, OSError.
    """
    root = pids[0]
    while True:
        pids = [pid for pid in pids if procfs.goes_on(pid)]
        if root not in pids:
            raise TargetError(f"process {root} has ended; name one that runs")
        try:
            return _look(pids)
        except procfs.GONE:
            if all(map(procfs.goes_on, pids)):
                raise


def _look(pids: Sequence[int]) -> Shape:
    files, fs = _first(pids, KCMP_FILES), _first(pids, KCMP_FS)
    found: Dict[int, Member] = {}
    for pid in pids:
        stat = procfs.stat(pid)
        if not found or stat.ppid in found:
            parent = stat.ppid if found else 0
            found[pid] = Member(pid, parent, stat.pgrp, stat.session, files[pid], fs[pid], attributes.exit_signal(pid))
    return tuple(found.values())


def _first(pids: Sequence[int], kind: int) -> Dict[int, int]:
    return {pids[index]: pids[members[0]] for members in group(kind, [(pid, 0) for pid in pids]) for index in members}


def hierarchy(shape: Shape) -> Pstree:
    """Return who is whose child, session and group in SHAPE."""
    return Pstree(tuple(Process(one.pid, one.ppid, one.pgid, one.sid, (one.pid,)) for one in shape))
