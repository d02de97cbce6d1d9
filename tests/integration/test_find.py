# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding a process by what an operator knows of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from _engine.errors import TargetError, UsageError
from _engine.find import find
from process import descendants, running


@pytest.fixture
def name(tmp_path: Path) -> str:
    """The name of a shell that no one else has."""
    name = f"sf{uuid.uuid4().hex[:10]}"
    shutil.copy("/bin/sh", tmp_path / name)
    return name


def test_by_pid() -> None:
    with running("sh", "-c", "echo ready; read line") as process:
        assert find(pid=process.pid) == process.pid
    with pytest.raises(TargetError, match=f"process {process.pid} does not exist"):
        find(pid=process.pid)


def test_by_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with running("sh", "-c", "echo ready; read line") as process:
        for text in (f"{process.pid}", f"{process.pid}\n", f" {process.pid} \nmore\n"):
            path.write_text(text)
            assert find(pid_file=str(path)) == process.pid
    with pytest.raises(TargetError, match=f"pid file {path} names process {process.pid}, which does not exist; start the service"):
        find(pid_file=str(path))


@pytest.mark.parametrize("text", ["", "redis", "-5", "0", "1.5"])
def test_a_pid_file_without_a_pid(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    with pytest.raises(TargetError, match=f"pid file {tmp_path}/pid holds '{text}', which is not a PID"):
        find(pid_file=str(tmp_path / "pid"))


def test_a_pid_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=f"pid file {tmp_path}/none cannot be read: No such file or directory"):
        find(pid_file=str(tmp_path / "none"))


def test_by_name(tmp_path: Path, name: str) -> None:
    with running(str(tmp_path / name), "-c", "echo ready; read line") as process:
        assert find(name=name) == process.pid
    with pytest.raises(TargetError, match=f"no process is called {name}"):
        find(name=name)


def test_by_a_name_that_is_longer_than_a_comm(tmp_path: Path, name: str) -> None:
    long = f"{name}-with-a-long-name"
    (tmp_path / name).rename(tmp_path / long)
    with running(str(tmp_path / long), "-c", "echo ready; read line") as process:
        assert find(name=long) == process.pid


def test_of_several_with_a_name_the_common_ancestor(tmp_path: Path, name: str) -> None:
    shell = str(tmp_path / name)
    with running(shell, "-c", f"sh -c \"{shell} -c 'echo ready; read line'; true\"; true") as process:
        assert len(descendants(process.pid)) == 3
        assert find(name=name) == process.pid


def test_several_with_a_name_are_listed(tmp_path: Path, name: str) -> None:
    command = (str(tmp_path / name), "-c", "echo ready; read line")
    with running(*command) as one, running(*command) as other:
        first, second = sorted((one.pid, other.pid))
        with pytest.raises(TargetError, match=f"more than one process is called {name}: {first}, {second}; name one by its PID"):
            find(name=name)


def cgroup_root() -> Path | None:
    """A place where a cgroup can be made, of version 2 if there is one."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/systemd")):
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            return root
    return None


@pytest.fixture
def cgroup() -> Iterator[Path]:
    root = cgroup_root()
    if root is None or os.geteuid() != 0:
        pytest.skip("no cgroup can be made here: it needs root and a writable cgroup mount")
    made = root / f"stillframe-{uuid.uuid4().hex[:8]}"
    (made / "below").mkdir(parents=True)
    yield made
    (made / "below").rmdir()
    made.rmdir()


def test_by_cgroup(cgroup: Path) -> None:
    with running("sh", "-c", "sleep 60 & sleep 60 & echo ready; read line") as process:
        tree = descendants(process.pid)
        (cgroup / "cgroup.procs").write_text(str(tree[0]))
        (cgroup / "below" / "cgroup.procs").write_text(str(tree[1]))
        assert find(cgroup=str(cgroup)) == process.pid
        assert find(cgroup=f"/{cgroup.name}") == process.pid
        assert find(cgroup=f"{cgroup.name}/below") == tree[1]
        (cgroup / "below" / "cgroup.procs").write_text(str(tree[2]))
        with pytest.raises(TargetError, match=f"more than one process is in cgroup {cgroup.name}/below: "):
            find(cgroup=f"{cgroup.name}/below")
        for pid in tree:
            (cgroup.parent / "cgroup.procs").write_text(str(pid))
        with pytest.raises(TargetError, match=f"no process is in cgroup /{cgroup.name}"):
            find(cgroup=f"/{cgroup.name}")


def test_no_such_cgroup() -> None:
    with pytest.raises(TargetError, match="cgroup /nowhere/at/all does not exist"):
        find(cgroup="/nowhere/at/all")


def systemd_runs() -> bool:
    return Path("/run/systemd/system").is_dir()


@pytest.mark.skipif(systemd_runs(), reason="systemd runs here: see the test of a unit that exists")
def test_without_systemd_a_unit_is_refused_clearly() -> None:
    with pytest.raises(TargetError, match="unit redis.service cannot be looked up.*; name the process by its PID"):
        find(systemd_unit="redis.service")


@pytest.mark.skipif(not systemd_runs(), reason="systemd does not run here")
def test_a_unit_that_exists() -> None:
    shown = subprocess.run(
        ["systemctl", "show", "--property=MainPID", "--value", "systemd-journald"], capture_output=True, text=True, check=True
    )
    assert find(systemd_unit="systemd-journald.service") == int(shown.stdout)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that prints what is in the file beside it."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1 $3 $4" = "show -- redis.service" ] && cat {tmp_path}/answer\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path / "answer"


def test_by_the_main_pid_of_a_unit(systemctl: Path) -> None:
    systemctl.write_text("MainPID=4711\nControlGroup=/system.slice/redis.service\nLoadState=loaded\nActiveState=active\n")
    assert find(systemd_unit="redis.service") == 4711


def test_by_the_cgroup_of_a_unit_without_a_main_pid(systemctl: Path, cgroup: Path) -> None:
    systemctl.write_text(f"MainPID=0\nControlGroup=/{cgroup.name}\nLoadState=loaded\nActiveState=active\n")
    with running("sh", "-c", "echo ready; read line") as process:
        (cgroup / "cgroup.procs").write_text(str(process.pid))
        assert find(systemd_unit="redis.service") == process.pid
        (cgroup.parent / "cgroup.procs").write_text(str(process.pid))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("MainPID=0\nControlGroup=\nLoadState=not-found\nActiveState=inactive\n", "systemd knows no unit redis.service"),
        ("MainPID=0\nControlGroup=\nLoadState=loaded\nActiveState=failed\n", "unit redis.service has no process, it is failed; start it"),
    ],
)
def test_a_unit_without_a_process(systemctl: Path, answer: str, message: str) -> None:
    systemctl.write_text(answer)
    with pytest.raises(TargetError, match=message):
        find(systemd_unit="redis.service")


@pytest.mark.parametrize("given", [{}, {"pid": 5, "name": "sh"}])
def test_exactly_one_way_is_to_be_given(given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="exactly one of pid, pid_file, name, systemd_unit, cgroup"):
        find(**given)  # type: ignore[arg-type]
