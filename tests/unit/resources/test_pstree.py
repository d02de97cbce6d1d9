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
        if call in (pstree.FORK, pstree.FORK_BESIDE):
            assert argument not in self.parents
            parent = actor if call == pstree.FORK else self.parents[actor]
            self.parents[argument], self.sessions[argument], self.groups[argument] = parent, self.sessions[actor], self.groups[actor]
        elif call == pstree.END:
            assert self.parents[actor] == argument and actor not in self.parents.values(), f"{actor} leaves orphans"
            del self.parents[actor], self.sessions[actor], self.groups[actor]
        elif call == pstree.SETSID:
            assert actor not in (*self.groups.values(), *self.sessions.values()), f"{actor} leads a group"
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
ORPHANED = {
    "the first of the pipeline has ended": tree((10, 0, 10, 10), (12, 10, 11, 10)),
    "a daemon whose session leader has ended": tree((10, 0, 5, 5), (11, 10, 5, 5)),
    "that, with a group of its own and of one that has ended": tree((10, 0, 10, 5), (11, 10, 6, 5), (12, 11, 6, 5)),
    "a root that left the session of its child": tree((10, 0, 10, 10), (11, 10, 5, 5)),
    "two sessions whose leaders have ended": tree((10, 0, 10, 10), (11, 10, 5, 5), (12, 10, 6, 6)),
    "a reaper that got the children of a session's leader": tree((10, 0, 10, 10), (11, 10, 5, 5), (12, 10, 5, 5), (13, 12, 8, 5)),
    "a child in a sibling's session": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 10, 11, 11), (13, 12, 14, 11)),
    "a child in a later sibling's session": tree((10, 0, 10, 10), (12, 10, 11, 11), (11, 10, 11, 11)),
    "both at once": tree((10, 0, 10, 10), (12, 10, 11, 11), (11, 10, 11, 11), (13, 12, 13, 13), (14, 13, 7, 7), (15, 14, 14, 7)),
    "a session held by a reaper and by one that has left it": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 10, 5, 5), (13, 11, 5, 5)),
    "a session held by two that have left it": tree(
        (10, 0, 10, 10), (11, 10, 11, 11), (12, 10, 12, 12), (13, 11, 5, 5), (14, 12, 5, 5)
    ),
    "a session held by two of which one left it after the other": tree(
        (10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 12, 12), (13, 11, 5, 5), (14, 12, 5, 5)
    ),
    "a sibling that left the session of another": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 10, 12, 12), (13, 12, 11, 11)),
}
SHELL_JOBS = {
    "a job with its own group": tree((10, 0, 10, 5), (11, 10, 10, 5)),
    "a job of a script": tree((10, 0, 5, 5), (11, 10, 5, 5), (12, 10, 12, 5)),
    "a root that left the session of its child": tree((10, 0, 10, 10), (11, 10, 5, 5)),
    "as criu has it, from another PID namespace": tree((10, 0, 0, 0), (11, 10, 0, 0)),
}
IMPOSSIBLE = {
    "a session whose leader has ended, held by two that never were in it": tree(
        (10, 0, 10, 10), (11, 10, 10, 10), (12, 10, 5, 5), (13, 11, 5, 5)
    ),
    "a session held by its leader's grandparent": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 12, 12), (13, 10, 12, 12)),
    "a group of another session": tree((10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 10, 11)),
}


@pytest.mark.parametrize("name", [*TREES, *SHELL_JOBS])
def test_plan_makes_the_tree(name: str) -> None:
    wanted = {**TREES, **SHELL_JOBS}[name]
    kernel = carry_out(wanted, shell_job=True)
    inside = {task.pid for task in wanted.tasks}
    assert kernel.parents == {task.pid: task.ppid for task in wanted.tasks}
    assert kernel.sessions == {task.pid: task.sid if task.sid in inside else OUR_SESSION for task in wanted.tasks}
    assert kernel.groups == {task.pid: task.pgid if task.pgid in inside else os.getpgrp() for task in wanted.tasks}


@pytest.mark.parametrize("name", [*TREES, *ORPHANED])
def test_plan_makes_the_tree_with_helpers(name: str) -> None:
    wanted = {**TREES, **ORPHANED}[name]
    kernel = carry_out(wanted, shell_job=False)
    assert kernel.parents == {task.pid: task.ppid for task in wanted.tasks}
    assert kernel.sessions == {task.pid: task.sid for task in wanted.tasks}
    assert kernel.groups == {task.pid: task.pgid for task in wanted.tasks}


def carry_out(wanted: Pstree, shell_job: bool) -> Kernel:
    assert pstree.check_restore(wanted, shell_job) == []
    kernel = Kernel(pstree.first(wanted, shell_job))
    for step in pstree.creation_plan(wanted, shell_job):
        kernel.carry_out(step)
    return kernel


@pytest.mark.parametrize("name", TREES)
def test_whole_trees_need_no_helpers(name: str) -> None:
    assert pstree.helpers(TREES[name], shell_job=False) == ()


def test_helpers_have_the_numbers_of_leaders_who_ended() -> None:
    wanted = ORPHANED["that, with a group of its own and of one that has ended"]
    assert [helper.pid for helper in pstree.helpers(wanted, shell_job=False)] == [5, 6]


def test_a_session_of_another_namespace_takes_the_option() -> None:
    (obstacle,) = pstree.check_restore(SHELL_JOBS["as criu has it, from another PID namespace"], shell_job=False)
    assert "shell_job" in obstacle.remedy


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_trees_are_refused(name: str) -> None:
    assert pstree.check_restore(IMPOSSIBLE[name], shell_job=False)


def test_image_holds_the_tree(tmp_path: Path) -> None:
    images = ImagesDir(str(tmp_path))
    wanted = Pstree((Process(10, 0, 10, 10, (10, 14, 15)), Process(12, 10, 10, 10, (12,))))
    pstree.write(images, wanted)
    assert pstree.read(images) == wanted


def test_running_tree_is_read() -> None:
    found: List[Process] = list(pstree.read_tree([os.getpid()]).tasks)
    assert (found[0].pid, found[0].ppid, found[0].pgid, found[0].sid) == (os.getpid(), 0, os.getpgrp(), os.getsid(0))
    assert found[0].threads[0] == os.getpid()
