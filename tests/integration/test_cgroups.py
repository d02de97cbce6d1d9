# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Restored tasks are in the control groups that they were in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from _engine.kernel import cgroups
from victim import Lab, until

CONTROLLER = "freezer"
"""One that takes processes without being set up."""


@pytest.fixture(params=[cgroups.VERSION_2, CONTROLLER], ids=["version 2", "version 1"])
def group(request: pytest.FixtureRequest, lab: Lab) -> Iterator[tuple[str, Path]]:
    """A new cgroup beside ours: its hierarchy and its directory."""
    mounted = cgroups.mounts()
    ours = [member for member in cgroups.of_thread(os.getpid(), os.getpid()) if member.hierarchy == request.param]
    parent = cgroups.directory(ours[0], mounted) if ours else ""
    if not os.access(parent or "/nowhere", os.W_OK):
        pytest.skip("no such hierarchy that we may write")
    directory = Path(parent, f"stillframe-{os.getpid()}")
    directory.mkdir()
    try:
        yield request.param, directory
    finally:
        lab.reap()
        for path in (directory / "below", directory):
            with suppress(FileNotFoundError):
                until(lambda path=path: removed(path), f"{path} is in use")  # type: ignore[misc]


def removed(path: Path) -> bool:
    """Remove a cgroup, unless a process is in it still."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def membership(pid: int, hierarchy: str, tid: int = 0) -> str:
    return next(member.path for member in cgroups.of_thread(pid, tid or pid) if member.hierarchy == hierarchy)


def start(lab: Lab, directory: Path) -> int:
    pid = lab.spawn(["sh", "-c", "sleep 1000 & wait"]).pid
    until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text() != "", "the shell starts nothing")
    (child,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", "nothing is started")
    below = directory / "below"
    below.mkdir()
    cgroups.join_process(str(below), child)
    return pid


def test_who_was_in_a_cgroup_is_in_it_again(lab: Lab, group: tuple[str, Path]) -> None:
    hierarchy, directory = group
    root = start(lab, directory)
    (child,) = map(int, Path(f"/proc/{root}/task/{root}/children").read_text().split())
    before = membership(root, hierarchy), membership(child, hierarchy)
    assert before[0] != before[1]
    path = lab.dump(root, "1")
    lab.reap()
    for options in ([], ["--manage-cgroups=none"], ["--manage-cgroups=soft"]):
        lab.restore(path, *options)
        assert (membership(root, hierarchy), membership(child, hierarchy)) == before
        lab.end(root)
    lab.restore(path, "--manage-cgroups=ignore")
    assert membership(child, hierarchy) == before[0]


def test_a_cgroup_that_is_missing(lab: Lab, group: tuple[str, Path]) -> None:
    hierarchy, directory = group
    root = start(lab, directory)
    (child,) = map(int, Path(f"/proc/{root}/task/{root}/children").read_text().split())
    path, below = membership(child, hierarchy), directory / "below"
    images = lab.dump(root, "1")
    lab.reap()
    until(lambda: removed(below), f"{below} is in use")
    done = lab.engine("restore", "--images-dir", images, "--restore-detached", "--manage-cgroups=none")
    assert done.returncode == 1 and f"{path}: it does not exist here" in done.stderr
    assert f"{path} does not exist here" in lab.run("restore", "--images-dir", images, "--restore-detached")
    assert membership(child, hierarchy) == membership(root, hierarchy)
    lab.end(root)
    lab.restore(images, "--manage-cgroups=soft")
    assert membership(child, hierarchy) == path


def test_a_thread_in_a_cgroup_of_its_own(lab: Lab, group: tuple[str, Path]) -> None:
    hierarchy, directory = group
    if hierarchy == cgroups.VERSION_2:
        pytest.skip("threads of a process share it")
    victim = lab.start("sandbox")
    victim.await_rest()
    (thread,) = (int(tid) for tid in os.listdir(f"/proc/{victim.pid}/task") if int(tid) != victim.pid)
    cgroups.join_thread(str(directory), thread)
    before = [membership(victim.pid, hierarchy, tid) for tid in (victim.pid, thread)]
    path = lab.dump(victim.pid, "1")
    lab.reap()
    lab.restore(path)
    assert before[0] != before[1] == membership(victim.pid, hierarchy, thread)
    assert [membership(victim.pid, hierarchy, tid) for tid in (victim.pid, thread)] == before
    assert victim.ask() == "ok"
