# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad input: one clear sentence, a target that notices nothing, and nothing that anybody would take for a dump."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from look import assert_same, look
from test_restore_tracking import small_disk
from victim import PATIENCE, Lab, Victim, children, engine, sentence, state


def living(lab: Lab) -> set[int]:
    """Return our children that have come since the beginning and have not ended."""
    return {pid for pid in children() - lab.before if state(pid) != "Z"}


def refuse_dump(lab: Lab, victim: Victim, images: Path, *options: str, verb: str = "dump") -> str:
    """Try a dump that is refused before anything is touched; return why."""
    victim.await_rest()
    before, held = look(victim.pid), sorted(os.listdir(images)) if images.is_dir() else None
    done = lab.engine(verb, "--tree", victim.pid, "--images-dir", images, "--track-mem", "--leave-running", *options)
    assert_same(before, look(victim.pid))
    assert (sorted(os.listdir(images)) if images.is_dir() else None) == held
    assert victim.ask() == "ok"
    return sentence(done)


@pytest.fixture
def victim(lab: Lab) -> Victim:
    """A victim that holds nothing in particular."""
    return lab.start("unsupported", "nothing")


@pytest.mark.parametrize(
    ("pid", "why"),
    [
        ("4194303", "4194303 does not exist"),
        ("0", "PID"),
        ("-5", "whole number"),
        ("99999999999999", "99999999999999"),
        ("2", "process 2 .* is a kernel thread"),
        ("1", "init"),
        (str(os.getpid()), f"process {os.getpid()} .* ancestor"),
    ],
)
def test_what_is_no_process_to_be_dumped(lab: Lab, pid: str, why: str) -> None:
    images = lab.images("1")
    said = sentence(lab.engine("dump", f"--tree={pid}", "--images-dir", images, "--leave-running"))
    assert re.search(why, said)
    assert os.listdir(images) == []


def test_our_own_process(lab: Lab) -> None:
    images = lab.images("1")
    command = ["sh", "-c", f"exec {' '.join(engine('dump', '--leave-running', '--images-dir', images))} --tree $$"]
    said = sentence(subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False))
    assert "would do the dump" in said
    assert os.listdir(images) == []


def test_a_process_that_is_traced_already(lab: Lab, victim: Victim) -> None:
    tracer = "import ctypes, sys\nprint(ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0), flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", tracer, str(victim.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"0\n"
        said = refuse_dump(lab, victim, lab.images("1"))
        process.kill()
    assert f"process {victim.pid}" in said and "traced" in said and f"process {process.pid}" in said


def test_images_dirs_that_are_no_good(lab: Lab, victim: Victim) -> None:
    missing = lab.folder / "missing"
    assert f"{missing} does not exist" in refuse_dump(lab, victim, missing)
    file = lab.folder / "file"
    file.write_text("")
    assert f"{file} is not a directory" in refuse_dump(lab, victim, file)
    full = lab.dump(victim.pid, "1", "--leave-running")
    assert "already holds a dump" in refuse_dump(lab, victim, full)
    half = lab.images("half")
    (half / "core-1.img").write_text("")
    assert "unfinished dump" in refuse_dump(lab, victim, half)


def test_an_images_dir_on_a_disk_that_is_read_only(lab: Lab, victim: Victim) -> None:
    with small_disk(lab.folder / "small", "1m") as path:
        subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        assert f"{path} cannot be written" in refuse_dump(lab, victim, path)


@pytest.mark.parametrize("size", ["4k", "64k", "400k", "8m", "20m"])
@pytest.mark.parametrize("options", [(), ("--freeze=snapshot",), ("--freeze=hold",)], ids=str)
def test_a_disk_that_fills_up(lab: Lab, options: tuple[str, ...], size: str) -> None:
    victim = lab.start("memory")
    with small_disk(lab.folder / "small", size) as path:
        assert "No space left" in refuse_dump(lab, victim, path, *options)
    assert living(lab) == {victim.pid}


@pytest.mark.parametrize("leave", [(), ("--leave-stopped",)], ids=str)
def test_the_last_dump_kills_nothing_when_the_disk_is_full(lab: Lab, leave: tuple[str, ...]) -> None:
    victim = lab.start("memory")
    victim.await_rest()
    before = look(victim.pid)
    with small_disk(lab.folder / "small", "8m") as path:
        assert "No space left" in sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", path, *leave))
        assert os.listdir(path) == []
    assert_same(before, look(victim.pid))
    assert victim.ask() == "ok"


def flip(path: Path, at: int = -1) -> None:
    """Flip a bit of a file, of its middle byte if no other is named."""
    content = bytearray(path.read_bytes())
    content[at if at >= 0 else len(content) // 2] ^= 4
    path.write_bytes(content)


def newer(path: Path) -> None:
    """Let a dump seem to be of a format that is not there yet."""
    manifest = json.loads((path / "stillframe.json").read_text())
    key = next(name for name in manifest if "version" in name or name == "format")
    manifest[key] = 99
    (path / "stillframe.json").write_text(json.dumps(manifest))


def pages(path: Path) -> Path:
    """Return the pages file of a dump."""
    return next(iter(sorted(path.glob("pages-*.img"))))


def truncate(path: Path) -> None:
    os.truncate(pages(path), pages(path).stat().st_size // 8192 * 4096)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no dump": (lambda path: (path / "inventory.img").unlink(), "holds no finished dump|is no dump|inventory"),
    "truncated pages": (truncate, "truncated"),
    "truncated image": (lambda path: os.truncate(next(path.glob("pagemap-*.img")), 20), "pagemap-"),
    "flipped image": (lambda path: flip(next(path.glob("pagemap-*.img"))), "pagemap-"),
    "flipped inventory": (lambda path: flip(path / "inventory.img"), "inventory"),
    "newer format": (newer, "newer|version"),
    "damaged manifest": (lambda path: os.truncate(path / "stillframe.json", 100), "stillframe.json"),
    "missing pages": (lambda path: pages(path).unlink(), "pages-"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("distance", [1, 2])
def test_a_parent_that_is_damaged(lab: Lab, victim: Victim, damage: str, distance: int) -> None:
    harm, why = DAMAGE[damage]
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    if distance == 2:
        lab.dump(victim.pid, "2", "--track-mem", "--leave-running", "--prev-images-dir=../1")
    harm(first)
    said = refuse_dump(lab, victim, lab.images("new"), f"--prev-images-dir=../{distance}")
    assert re.search(why, said) and str(first.name) in said
    assert refuse_dump(lab, victim, lab.images("ahead"), f"--prev-images-dir=../{distance}", verb="pre-dump")


def test_a_parent_that_is_not_there_or_of_another_tree(lab: Lab, victim: Victim) -> None:
    assert "../0" in refuse_dump(lab, victim, lab.images("1"), "--prev-images-dir=../0")
    lab.images("empty")
    assert "no finished dump" in refuse_dump(lab, victim, lab.images("2"), "--prev-images-dir=../empty")
    lab.dump(lab.start("unsupported", "nothing", name="other").pid, "other", "--leave-running")
    assert "another tree" in refuse_dump(lab, victim, lab.images("3"), "--prev-images-dir=../other")
    assert "itself" in refuse_dump(lab, victim, lab.images("4"), "--prev-images-dir=../4")


KINDS = {
    "io_uring": ("fd 50", "io_uring.*mapping|mapping.*io_uring"),
    "fanotify": ("fd 50", "decides on accesses"),
    "established": ("fd 50", "established|connect"),
    "userfaultfd": ("fd 50", "userfaultfd"),
    "pidfd": ("fd 50", "pidfd"),
    "netlink": ("fd 50", "netlink"),
    "pty": ("fd 50", "terminal"),
    "system_v": ("mapping", "a part of segment"),
    "namespace": ("namespace", "IPC"),
    "lock": ("lock", "lock"),
    "ghost": ("fd 50", "ghost|unlinked|deleted"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_carried_is_refused_by_name(lab: Lab, kind: str) -> None:
    where, why = KINDS[kind]
    victim = lab.start("unsupported", kind)
    for verb in ("dump", "pre-dump"):
        said = refuse_dump(lab, victim, lab.images(verb), verb=verb)
        assert f"process {victim.pid}" in said and where in said and re.search(why, said), said


def refuse_restore(lab: Lab, images: Path) -> str:
    """Try a restore that is refused; return why. No process is left, and nothing in the images is changed."""
    before = {path.name: path.lstat().st_mtime_ns for path in images.iterdir()} if images.is_dir() else {}
    done = lab.engine("restore", "--images-dir", images, "--restore-detached")
    assert living(lab) == set()
    if images.is_dir():
        assert {path.name: path.lstat().st_mtime_ns for path in images.iterdir()} == before
    return sentence(done)


def test_a_restore_of_a_tree_that_runs(lab: Lab, victim: Victim) -> None:
    path = lab.dump(victim.pid, "1", "--leave-running")
    said = sentence(lab.engine("restore", "--images-dir", path, "--restore-detached"))
    assert f"PID {victim.pid}" in said and "in use" in said
    assert victim.ask() == "ok"


@pytest.mark.parametrize("damage", [*DAMAGE, "flipped pages"])
@pytest.mark.parametrize("which", ["1", "2"])
def test_a_restore_from_damaged_images(lab: Lab, damage: str, which: str) -> None:
    victim = lab.start("memory")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("change") == "ok"
    last = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    harm, why = DAMAGE.get(damage, (lambda path: flip(pages(path), 100), "pages-"))
    harm(last.parent / which)
    assert re.search(why, refuse_restore(lab, last))


def test_a_restore_whose_parent_is_gone_or_another(lab: Lab, victim: Victim) -> None:
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    last = lab.dump(victim.pid, "2", "--track-mem", "--leave-running", "--prev-images-dir=../1")
    lab.dump(victim.pid, "3")
    lab.reap()
    (last.parent / "1").rename(last.parent / "away")
    assert "parent" in refuse_restore(lab, last)
    (last.parent / "3").rename(last.parent / "1")
    assert "parent" in refuse_restore(lab, last)
    missing = lab.folder / "nowhere"
    assert str(missing) in refuse_restore(lab, missing)
    (last.parent / "1").rename(last.parent / "3")
    (last.parent / "away").rename(last.parent / "1")
    lab.restore(last)
    assert victim.ask() == "ok"


def test_a_restore_whose_files_are_gone_or_changed_names_all_of_them(lab: Lab) -> None:
    victim = lab.start("memory")
    path = lab.dump(victim.pid, "1")
    lab.reap()
    private, shared, ask = (victim.directory / name for name in ("private", "shared", "ask"))
    content = private.read_bytes()
    private.write_bytes(content[:-1])
    shared.rename(victim.directory / "elsewhere")
    ask.rename(victim.directory / "unasked")
    said = refuse_restore(lab, path)
    assert str(private) in said and str(shared) in said and str(ask) in said
    private.write_bytes(content)
    (victim.directory / "elsewhere").rename(shared)
    (victim.directory / "unasked").rename(ask)
    lab.restore(path)
    assert victim.ask() == "ok"


def test_a_restore_whose_program_is_another_one(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(lab.program("channels").read_bytes())
    path.chmod(0o755)
    lab.programs["copy"] = path
    victim = lab.start("copy")
    del lab.programs["copy"]
    images = lab.dump(victim.pid, "1")
    lab.reap()
    path.write_bytes(lab.program("signals").read_bytes().ljust(path.stat().st_size, b"\0")[: path.stat().st_size])
    assert str(path) in refuse_restore(lab, images)
