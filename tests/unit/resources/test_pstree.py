# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans for making process trees, carried out by a model of what the kernel allows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from _engine.images.image import ImagesDir
from _engine.resources import pstree
from _engine.resources.pstree import Process, Pstree, Step

OUR_SESSION = -1


class Kernel:
    """The rules of fork(2), setsid(2) and setpgid(2)."""

    def __init__(self, root: int) -> None:
        self.parents: Dict[int, int] = {root: 0}
        self.sessions = {root: OUR_SESSION}
        self.groups = {root: os.getpgrp()}

    def carry_out(self, step: Step) -> None:
        actor, call, argument = step
        assert actor in self.parents, f"{actor} is not there yet"
        if call == pstree.FORK:
            assert argument not in self.parents
            self.parents[argument], self.sessions[argument], self.groups[argument] = actor, self.sessions[actor], self.groups[actor]
        elif call == pstree.SETSID:
            assert actor not in self.groups.values(), f"{actor} leads a group"
            self.sessions[actor] = self.groups[actor] = actor
        else:
            assert self.sessions[actor] != actor, f"{actor} leads a session"
            members = [pid for pid, group in self.groups.items() if group == argument]
            joins = any(self.sessions[pid] == self.sessions[actor] for pid in members)
            own = argument == actor
            ours = argument == os.getpgrp() and self.sessions[actor] == OUR_SESSION
            assert own or joins or ours, f"{actor} cannot join group {argument}"
            self.groups[actor] = argument


def tree(*rows: Tuple[int, int, int, int]) -> Pstree:
    """Return the tree of processes (pid, ppid, pgid, sid)."""
    return Pstree(tuple(Process(pid, ppid, pgid, sid, (pid,)) for pid, ppid, pgid, sid in rows))


TREES = {
    "a leader alone": tree((10, 0, 10, 10)),
    "a service with workers": tree((10, 0, 10, 10), (11, 10, 10, 10), (12, 10, 10, 10)),
    "a child in a session of its own": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 11, 11)),
    "a shell with a pipeline": tree((10, 0, 10, 10), (11, 10, 11, 10), (12, 10, 11, 10), (13, 10, 13, 10)),
    "a child that stayed in the session that its parent left": tree(
        (10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 10, 10), (13, 11, 11, 11), (14, 12, 10, 10)
    ),
    "a grandchild of the old session, through two that left": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 12, 12), (13, 12, 10, 10)),
    "a later process leads the group of an earlier one": tree((10, 0, 10, 10), (11, 10, 12, 10), (12, 10, 12, 10)),
    "who made a group is now in another": tree((10, 0, 10, 10), (11, 10, 10, 10), (12, 10, 11, 10)),
    "a chain of those": tree((10, 0, 10, 10), (13, 10, 12, 10), (12, 10, 11, 10), (11, 10, 10, 10)),
}
SHELL_JOBS = {
    "a job with its own group": tree((10, 0, 10, 5), (11, 10, 10, 5)),
    "a job of a script": tree((10, 0, 5, 5), (11, 10, 5, 5), (12, 10, 12, 5)),
    "a root that left the session of its child": tree((10, 0, 10, 10), (11, 10, 5, 5)),
    "as criu has it, from another PID namespace": tree((10, 0, 0, 0), (11, 10, 0, 0)),
}
IMPOSSIBLE = {
    "two sessions from outside": tree((10, 0, 10, 10), (11, 10, 5, 5), (12, 10, 6, 6)),
    "a child in a sibling's session": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 10, 11, 11)),
    "the first of the pipeline has ended": tree((10, 0, 10, 10), (12, 10, 11, 10)),
    "a group of another session": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 10, 11)),
    "two groups from outside": tree((10, 0, 5, 5), (11, 10, 6, 5)),
}


@pytest.mark.parametrize("name", [*TREES, *SHELL_JOBS])
def test_plan_makes_the_tree(name: str) -> None:
    wanted = {**TREES, **SHELL_JOBS}[name]
    kernel = Kernel(wanted.root.pid)
    for step in pstree.creation_plan(wanted):
        kernel.carry_out(step)
    inside = {task.pid for task in wanted.tasks}
    assert kernel.parents == {task.pid: task.ppid for task in wanted.tasks}
    assert kernel.sessions == {task.pid: task.sid if task.sid in inside else OUR_SESSION for task in wanted.tasks}
    assert kernel.groups == {task.pid: task.pgid if task.pgid in inside else os.getpgrp() for task in wanted.tasks}


@pytest.mark.parametrize("name", TREES)
def test_whole_trees_have_no_obstacle(name: str) -> None:
    assert pstree.check_restore(TREES[name], shell_job=False) == []


@pytest.mark.parametrize("name", SHELL_JOBS)
def test_shell_jobs_take_the_option(name: str) -> None:
    assert pstree.check_restore(SHELL_JOBS[name], shell_job=True) == []
    (obstacle,) = pstree.check_restore(SHELL_JOBS[name], shell_job=False)
    assert "shell_job" in obstacle.remedy


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_trees_are_refused(name: str) -> None:
    assert pstree.check_restore(IMPOSSIBLE[name], shell_job=True)


def test_image_holds_the_tree(tmp_path: Path) -> None:
    images = ImagesDir(str(tmp_path))
    wanted = Pstree((Process(10, 0, 10, 10, (10, 14, 15)), Process(12, 10, 10, 10, (12,))))
    pstree.write(images, wanted)
    assert pstree.read(images) == wanted


def test_running_tree_is_read() -> None:
    found: List[Process] = list(pstree.read_tree([os.getpid()]).tasks)
    assert (found[0].pid, found[0].ppid, found[0].pgid, found[0].sid) == (os.getpid(), 0, os.getpgrp(), os.getsid(0))
    assert found[0].threads[0] == os.getpid()
