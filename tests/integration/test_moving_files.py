# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files move along with the tree that writes to them: as they are in the end, and not before."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from _engine.transfer import needs
from _engine.transfer.arriving import ArrivingFiles
from _engine.transfer.carried import CarriedFiles
from _engine.transfer.preflight import lacking

import moving
from look import tree
from victim import PROGRAMS, Lab, Victim, until

_NAMES = ("log", "data", "mapped")
_OPEN = {"carry_files": ["open"]}


def facts(folder: Path) -> dict[str, Any]:
    """Return all that a file in FOLDER is, but where it is."""
    found = {}
    for path in folder.iterdir():
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)} if path.is_file() else {}
        found[path.name] = (content, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)
    return found


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_ino for path in folder.iterdir()}


@dataclass
class Scene:
    """A clerk here, and a host whose directory of the same path holds other files."""

    lab: Lab
    data: Path
    there: Path
    """That directory as it is seen from here."""

    def host(self, accept: list[str] | None = None, **values: Any) -> moving.Host:
        """Start the host."""
        enter = f'mount --bind {self.there} {self.data} && exec "$@"'
        options = {"accept_files": [str(self.data)] if accept is None else accept, "decision_timeout": 1}
        return moving.host(self.lab, prefix=["unshare", "--mount", "sh", "-c", enter, "sh"], options=options, **values)

    def clerk(self) -> Victim:
        """Start the clerk."""
        for pipe in ("ask", "answer"):
            os.mkfifo(self.lab.folder / pipe)
        process = self.lab.spawn([sys.executable, str(PROGRAMS / "clerk.py"), str(self.lab.folder), str(self.data)])
        until((self.lab.folder / "ready").exists, "the clerk does not start")
        return Victim(self.lab.folder, process.pid)


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    data, there = lab.folder / "data", lab.folder / "there"
    data.mkdir()
    there.mkdir()
    for name in ("log", "data"):
        (there / name).write_text(f"old {name}")
        (there / name).chmod(0o604)
    return Scene(lab, data, there)


def arrived(victim: Victim, host: moving.Host) -> Victim:
    """Return VICTIM as it is on HOST: this Python is that of the receiver too."""
    return Victim(victim.directory, host.processes()[victim.pid])


def test_files_that_are_written_to_move_along(scene: Scene) -> None:
    there, clerk = scene.host(), scene.clerk()
    try:
        assert clerk.ask() == "ok"
        for number, name in enumerate(_NAMES):
            os.chown(scene.data / name, 1000 + number, 2000)
        os.setxattr(scene.data / "data", "user.note", b"kept")
        pipes = f"exec 3<>{clerk.directory}/ask 4<>{clerk.directory}/answer"
        rest = f"{pipes}; echo rest >&3; read answer <&4; chmod 4751 {scene.data}/log; touch -d '2001-02-03 04:05:06.789' {scene.data}/log"
        moved = moving.move(clerk, there, hooks={"pre-freeze": rest}, options=_OPEN)
        assert "stop" in moved, moved
        assert there.result()["pids"] == [clerk.pid]
        assert facts(scene.there) == facts(scene.data)
        assert (scene.there / "log").lstat().st_mode & 0o7777 == 0o4751
        here = arrived(clerk, there)
        assert here.ask() == "ok" and here.ask("write") == "ok" and here.ask() == "ok"
        assert (scene.there / "log").stat().st_size > (scene.data / "log").stat().st_size
    finally:
        there.end()


def test_a_clerk_that_writes_all_the_time(scene: Scene) -> None:
    there, clerk = scene.host(), scene.clerk()
    try:
        moved = moving.move(clerk, there, options={**_OPEN, "compress": "auto"})
        assert "stop" in moved, moved
        there.result()
        assert arrived(clerk, there).ask() == "ok"
        assert sorted(os.listdir(scene.there)) == sorted(_NAMES)
    finally:
        there.end()


@pytest.mark.parametrize("fault", ["cut part after", "cut final before", "cut commit before", "kill final after"])
def test_a_source_that_fails_changes_no_file(scene: Scene, fault: str) -> None:
    there, clerk = scene.host(), scene.clerk()
    before, numbers = facts(scene.there), inodes(scene.there)
    try:
        moved = moving.move(clerk, there, fault=fault, options={**_OPEN, "decision_timeout": 5})
        if fault == "cut commit before":  # it asks again
            assert "stop" in moved, moved
            assert arrived(clerk, there).ask() == "ok"
            return
        assert "stop" not in moved
        assert "error" in there.result()
        assert (facts(scene.there), inodes(scene.there)) == (before, numbers)
        assert clerk.ask() == "ok"
    finally:
        there.end()


@pytest.mark.parametrize("fault", ["kill ready before", "kill ready after", "kill running before"])
def test_what_a_killed_receiver_leaves_is_tidied_up(scene: Scene, fault: str) -> None:
    there, clerk = scene.host(fault=fault), scene.clerk()
    before, numbers = facts(scene.there), inodes(scene.there)
    try:
        moved = moving.move(clerk, there, options={**_OPEN, "decision_timeout": 1})
        assert "stop" not in moved, moved
        there.result()
        again = there.receive(scene.lab)
        if fault == "kill running before":
            assert moving.settle(moving.undecided(clerk), again) == {"runs": True}
            assert arrived(clerk, there).ask() == "ok"
            assert sorted(os.listdir(scene.there)) == sorted(_NAMES)
            return
        if moved["kind"] == "InDoubt":
            assert moving.settle(moving.undecided(clerk), again) == {"runs": False}
        until(lambda: set(os.listdir(scene.there)) == set(numbers), "the next receiver does not tidy up")
        assert (facts(scene.there), inodes(scene.there)) == (before, numbers)
        assert clerk.ask() == "ok"
    finally:
        there.end()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("not accepted", "is not among what may come"),
        ("symbolic link", "is no regular file there"),
        ("other name", "has other names"),
        ("directory", "is no regular file there"),
        ("not there", "it is not there"),
        ("relative", "is no absolute path"),
        ("dots", "is no absolute path"),
        ("device", "it is no regular file"),
    ],
)
def test_a_file_that_cannot_come_is_an_obstacle(scene: Scene, what: str, why: str) -> None:
    wanted = {"not there": "/gone", "relative": "log", "dots": f"{scene.data}/../data/log", "device": "/dev/null"}.get(what, "open")
    (scene.there / "log").unlink()
    if what == "symbolic link":
        (scene.there / "log").symlink_to("/etc/passwd")
    elif what == "other name":
        os.link(scene.there / "data", scene.there / "log")
    elif what == "directory":
        (scene.there / "log").mkdir()
    there, clerk = scene.host(accept=[f"{scene.data}x", "/dev"] if what == "not accepted" else None), scene.clerk()
    before = facts(scene.there)
    try:
        told = moving.plan(clerk, there, options={"carry_files": [wanted]})
        assert told["kind"] == "UnsupportedError" and why in told["error"], told
        told = moving.move(clerk, there, options={"carry_files": [wanted]})
        assert told["kind"] == "UnsupportedError" and why in told["error"], told
        assert facts(scene.there) == before and clerk.ask() == "ok"
    finally:
        there.end()


def test_a_list_of_files(scene: Scene) -> None:
    (scene.data / "other").write_bytes(bytes(5 << 20) + b"end")
    (scene.data / "empty").write_bytes(b"")
    there, victim = scene.host(), scene.lab.start("writer")
    try:
        moved = moving.move(victim, there, options={"carry_files": [f"{scene.data}/other", f"{scene.data}/empty"]})
        assert "stop" in moved, moved
        there.result()
        assert {name: facts(scene.there)[name] for name in ("other", "empty")} == facts(scene.data)
        assert set(os.listdir(scene.there)) == {"log", "data", "other", "empty"}
    finally:
        there.end()


def test_files_on_storage_that_both_hosts_see_are_left_alone(lab: Lab) -> None:
    (lab.folder / "data").mkdir()
    scene = Scene(lab, lab.folder / "data", lab.folder / "data")
    there, clerk = scene.host(accept=[]), scene.clerk()
    numbers = inodes(scene.data)
    try:
        moved = moving.move(clerk, there, options=_OPEN)
        assert "stop" in moved, moved
        there.result()
        assert arrived(clerk, there).ask() == "ok" and inodes(scene.data) == numbers
    finally:
        there.end()


def test_which_files_cannot_come_is_known_beforehand(scene: Scene) -> None:
    pids = tree(scene.clerk().pid)
    carried, refused = CarriedFiles(["open"], pids[0]).look(pids)
    assert not refused and {one.path for one in carried} >= {str(scene.data / name) for name in _NAMES}
    told = json.loads(json.dumps(needs.look(pids, carried=carried).values()))
    assert not {one.path for one in carried} & {one[0] for one in told["files"]}
    wanted = replace(needs.Needs.read(told), numbers=(), ports=())  # they are in use here, but not elsewhere
    assert lacking(wanted, ArrivingFiles([], "none")) == ([], [one.path for one in carried])
    wanted = replace(wanted, boot="that of another kernel")
    assert lacking(wanted, ArrivingFiles([str(scene.data)], "none")) == ([], [])
    found, there = lacking(wanted, ArrivingFiles([str(scene.data / "log")], "none"))
    assert there == [] and {one.where for one in found} == {one.path for one in carried} - {str(scene.data / "log")}
    assert all("accept_files" in one.remedy for one in found)
