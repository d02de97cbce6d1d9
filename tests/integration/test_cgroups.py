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
        for path in (*sorted((one for one in directory.rglob("*") if one.is_dir()), reverse=True), directory):
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
    for options in ([], ["--manage-cgroups=strict", f"--cgroup-root={path}/new"]):
        lab.restore(images, *options)
        assert membership(child, hierarchy).startswith(path)
        lab.end(root)
        until(lambda: removed(below / "new") and removed(below), f"{below} is in use")


PROPERTY = {cgroups.VERSION_2: ("cgroup.max.depth", "5", "7"), CONTROLLER: ("notify_on_release", "1", "0")}
"""One that every group of the hierarchy has, and two values of it."""


def test_limits_and_owners(lab: Lab, group: tuple[str, Path]) -> None:
    hierarchy, directory = group
    root = start(lab, directory)
    (child,) = map(int, Path(f"/proc/{root}/task/{root}/children").read_text().split())
    name, dumped, other = PROPERTY[hierarchy]
    below, path = directory / "below", membership(child, hierarchy)
    (below / name).write_text(dumped)
    (below / "empty").mkdir()
    os.chown(below, 65534, 65533)
    images = lab.dump(root, "1")
    lab.reap()
    until(lambda: removed(below / "empty") and removed(below), f"{below} is in use")

    def found() -> tuple[str, int, int, bool]:
        status = below.stat()
        return (below / name).read_text().strip(), status.st_uid, status.st_gid, (below / "empty").is_dir()

    lab.restore(images)
    assert membership(child, hierarchy) == path and found() == (dumped, 65534, 65533, True)
    lab.end(root)
    (below / name).write_text(other)
    for mode, value in (("soft", other), ("props", dumped)):
        (below / name).write_text(other)
        lab.restore(images, f"--manage-cgroups={mode}")
        assert found()[0] == value, mode
        lab.end(root)
    refused = lab.engine("restore", "--images-dir", images, "--restore-detached", "--manage-cgroups=strict")
    assert refused.returncode == 1 and f"{path}: it exists here" in refused.stderr


def test_a_restore_that_fails_leaves_all_as_it_was(lab: Lab, group: tuple[str, Path]) -> None:
    hierarchy, directory = group
    root = start(lab, directory)
    name, dumped, other = PROPERTY[hierarchy]
    (directory / "below" / "new").mkdir()
    (directory / "below" / name).write_text(dumped)
    images = lab.dump(root, "1")
    lab.reap()
    (directory / "below" / "new").rmdir()
    (directory / "below" / name).write_text(other)
    script = lab.folder / "script"
    script.write_text("#!/bin/sh\n[ $CRTOOLS_SCRIPT_ACTION != post-restore ]\n")
    script.chmod(0o755)
    done = lab.engine("restore", "--images-dir", images, "--restore-detached", "--manage-cgroups=full", f"--action-script={script}")
    assert done.returncode == 1 and (directory / "below" / name).read_text().strip() == other
    assert not (directory / "below" / "new").exists()


def test_another_root(lab: Lab, group: tuple[str, Path]) -> None:
    hierarchy, directory = group
    if hierarchy == cgroups.VERSION_2:
        pytest.skip("no difference between the versions")
    root = start(lab, directory)
    (child,) = map(int, Path(f"/proc/{root}/task/{root}/children").read_text().split())
    top = membership(child, hierarchy).rpartition("/")[0]
    images = lab.dump(root, "1", f"--cgroup-root={hierarchy}:{top}")
    lab.reap()
    lab.restore(images, f"--cgroup-root={hierarchy}:{top}/elsewhere")
    assert membership(child, hierarchy) == f"{top}/elsewhere/below"
    wrong = lab.engine("restore", "--images-dir", images, "--cgroup-root=elsewhere")
    assert wrong.returncode == 1 and "cgroup_root 'elsewhere'" in wrong.stderr


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
