# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of a program that never stops writing: every dump holds what was there, whatever befell the tracker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from look import TRACKER, tree
from victim import Lab, Victim


def manifest(path: Path) -> dict[str, object]:
    """Return the manifest of a dump."""
    return dict(json.loads((path / "stillframe.json").read_text()))


def assert_restores(lab: Lab, victim: Victim, *paths: Path, children: int = 0) -> None:
    """Restore each of PATHS, let the victim check itself, and again when it has run on."""
    lab.reap()
    for path in paths:
        lab.restore(path)
        assert victim.ask() == "ok", path
        assert len(tree(victim.pid)) == 1 + children
        if children:
            assert victim.ask("end child") == "ok", path
        assert victim.ask() == "ok", path
        lab.end(victim.pid)


@pytest.mark.parametrize("freeze", ["snapshot", "hold", "auto"])
def test_a_chain_of_a_program_that_writes_on(lab: Lab, freeze: str) -> None:
    victim = lab.start("writer")
    paths = [lab.dump(victim.pid, "1", "--track-mem", "--leave-running", f"--freeze={freeze}")]
    for number in range(2, 7):
        options = ["--track-mem", f"--freeze={freeze}", f"--prev-images-dir=../{number - 1}"]
        paths.append(lab.dump(victim.pid, str(number), *options, *(["--leave-running"] if number < 6 else [])))
        assert manifest(paths[-1])["tracker"] == "uffd_wp"
    assert_restores(lab, victim, *paths)


def test_pre_dumps_of_a_program_that_writes_on(lab: Lab) -> None:
    victim = lab.start("writer")
    for number in range(1, 4):
        parent = [f"--prev-images-dir=../{number - 1}"] if number > 1 else []
        lab.run("pre-dump", "--tree", victim.pid, "--images-dir", lab.images(str(number)), "--track-mem", *parent)
        assert victim.ask("drop" if number == 2 else "check") == "ok"
    running = lab.dump(victim.pid, "4", "--track-mem", "--prev-images-dir=../3", "--leave-running")
    last = lab.dump(victim.pid, "5", "--prev-images-dir=../4")
    assert manifest(running)["tracker"] == manifest(last)["tracker"] == "uffd_wp"
    assert_restores(lab, victim, running, last)


@pytest.mark.parametrize("tracker", ["uffd_wp", "compare"])
@pytest.mark.parametrize("event", ["drop", "move", "protect", "exec", "close", "fork"])
def test_what_befalls_memory_between_two_dumps(lab: Lab, event: str, tracker: str) -> None:
    victim = lab.start("writer")
    options = ["--track-mem", f"--tracker={tracker}"]
    first = lab.dump(victim.pid, "1", *options, "--leave-running")
    assert victim.ask(event) == ("ready" if event == "exec" else "ok")
    second = lab.dump(victim.pid, "2", *options, "--leave-running", "--prev-images-dir=../1")
    third = lab.dump(victim.pid, "3", "--prev-images-dir=../2")
    lost = event in ("exec", "close") or tracker == "compare"
    assert manifest(second)["tracker"] == ("compare" if lost else "uffd_wp")
    assert manifest(third)["tracker"] == tracker
    assert_restores(lab, victim, first)
    assert_restores(lab, victim, second, third, children=int(event == "fork"))


def test_a_parent_that_the_tracker_does_not_count_from_is_compared(lab: Lab) -> None:
    victim = lab.start("writer")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    second = lab.dump(victim.pid, "2", "--track-mem", "--leave-running", "--prev-images-dir=../1")
    path = lab.images("3")
    said = lab.run("dump", "--tree", victim.pid, "--images-dir", path, "--track-mem", "--leave-running", "--prev-images-dir=../1")
    assert "compared" in said and manifest(path)["tracker"] == "compare"
    fourth = lab.dump(victim.pid, "4", "--prev-images-dir=../3")
    assert manifest(fourth)["tracker"] == "uffd_wp"
    assert_restores(lab, victim, second, path, fourth)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a filesystem of SIZE at PATH."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("verb", ["dump", "pre-dump"])
def test_after_a_dump_that_failed_the_next_one_compares(lab: Lab, verb: str) -> None:
    victim = lab.start("writer")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("move") == "ok"  # so that all of it is to be written
    with small_disk(lab.folder / "images" / "small", "1m") as path:
        running = ["--leave-running"] if verb == "dump" else []
        done = lab.engine(verb, "--tree", victim.pid, "--images-dir", path, "--track-mem", *running, "--prev-images-dir=../1")
        assert done.returncode == 1 and "No space left" in done.stderr
        assert os.listdir(path) == []
    assert victim.ask() == "ok"
    second = lab.dump(victim.pid, "2", "--track-mem", "--leave-running", "--prev-images-dir=../1")
    assert manifest(second)["tracker"] == "compare"
    third = lab.dump(victim.pid, "3", "--prev-images-dir=../2")
    assert manifest(third)["tracker"] == "uffd_wp"
    assert_restores(lab, victim, second, third)


def test_there_is_one_tracker_however_many_dumps(lab: Lab) -> None:
    victim = lab.start("writer")
    parent: tuple[str, ...] = ()
    for number in range(1, 4):
        lab.dump(victim.pid, str(number), "--track-mem", "--leave-running", *parent)
        parent = (f"--prev-images-dir=../{number}",)
        links = [os.readlink(f"/proc/{victim.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{victim.pid}/fd")]
        assert links.count(TRACKER) == 1
