# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks, watches, descriptors of processes and unlinked files of all kinds: dumped while it runs and at its end, and restored from both."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from _engine.options import DumpOptions
from _engine.resources.files import watched
from _engine.resources.files.dump import FilesDump
from _engine.resources.files.pidfd import PIDFD_THREAD
from look import assert_same, look
from process import python, running
from victim import Lab, Victim

OPTIONS = {"locks": ("--file-locks",), "watches": (), "processes": (), "unlinked": ()}
MOVING = ("descriptor 50", "SigQ", "Cpus_allowed")


def seen(victim: Victim) -> dict[str, object]:
    """Return what is seen of VICTIM from outside, with the locks that it holds."""
    victim.await_rest()
    found = look(victim.pid, memory=False)
    for fd in os.listdir(f"/proc/{victim.pid}/fdinfo"):
        lines = Path(f"/proc/{victim.pid}/fdinfo/{fd}").read_text().splitlines()
        locks = sorted(line.split(":", 2)[2] for line in lines if line.startswith("lock:"))
        watches = sorted(line.split(" ino:")[0] for line in lines if line.startswith("inotify wd"))
        if locks or watches:
            found[f"locks and watches of {fd}"] = (locks, watches)
    return found


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_it_holds_is_carried(lab: Lab, kind: str) -> None:
    victim = lab.start("open_files", kind)
    assert victim.ask() == "ok"
    before = seen(victim)
    first = lab.dump(victim.pid, "1", "--leave-running", "--track-mem", *OPTIONS[kind])
    assert_same(before, seen(victim))
    assert victim.ask() == "ok"
    last = lab.dump(victim.pid, "2", "--prev-images-dir=../1", "--track-mem", *OPTIONS[kind])
    lab.reap()
    for images in (last, first, last):
        lab.restore(images, *OPTIONS[kind])
        assert_same(before, seen(victim), *MOVING)
        assert victim.ask() == "ok"
        assert victim.ask() == "ok"
        if kind == "locks":
            assert victim.ask("break") == "ok"
        lab.end(victim.pid)
    assert not [name for name in os.listdir(victim.directory) if name.endswith(".ghost")]


def test_locks_are_carried_when_that_is_asked_for(lab: Lab) -> None:
    victim = lab.start("open_files", "locks")
    before = seen(victim)
    done = lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1"))
    assert done.returncode and "file_locks" in done.stderr and done.stderr.count("lock or a lease") >= 5
    assert_same(before, seen(victim))
    images = lab.dump(victim.pid, "2", "--file-locks")
    lab.reap()
    done = lab.engine("restore", "--images-dir", images, "--restore-detached")
    assert done.returncode and "use file_locks" in done.stderr


def take_posix(directory: Path) -> int:
    held = os.open(directory / "posix", os.O_RDWR)
    fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 12)
    return held


def take_flock(directory: Path) -> int:
    held = os.open(directory / "flock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return held


@pytest.mark.parametrize("take", [take_posix, take_flock])
def test_a_lock_that_another_has_taken_meanwhile(lab: Lab, take: object) -> None:
    victim = lab.start("open_files", "locks")
    images = lab.dump(victim.pid, "1", "--file-locks")
    lab.reap()
    held = take(victim.directory)  # type: ignore[operator]
    done = lab.engine("restore", "--images-dir", images, "--restore-detached", "--file-locks")
    assert done.returncode and f"is locked by process {os.getpid()} now" in done.stderr, done.stderr
    os.close(held)
    lab.restore(images, "--file-locks")
    assert victim.ask() == "ok"


def names(victim: Victim) -> set[str]:
    return set(os.listdir(victim.directory))


def test_a_file_under_another_name(lab: Lab) -> None:
    victim = lab.start("open_files", "linked")
    before, known = seen(victim), names(victim)
    done = lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1"))
    assert done.returncode and "use link_remap" in done.stderr and names(victim) == known
    kept = lab.dump(victim.pid, "2", "--link-remap", "--leave-running")
    assert len(names(victim) - known) == 1
    last = lab.dump(victim.pid, "3", "--link-remap")
    assert len(names(victim) - known) == 2
    lab.reap()
    for images, left in ((last, 1), (kept, 0)):
        lab.restore(images)
        assert_same(before, seen(victim))
        assert victim.ask() == "ok" and len(names(victim) - known) == left
        lab.end(victim.pid)
    done = lab.engine("restore", "--images-dir", last, "--restore-detached")
    assert done.returncode and "link_remap" in done.stderr and "cannot be found" in done.stderr


def test_events_that_were_not_read_are_told_of(lab: Lab) -> None:
    victim = lab.start("open_files", "watches")
    (victim.directory / "watched" / "more").touch()
    images = lab.images("1")
    done = lab.engine("dump", "--tree", victim.pid, "--images-dir", images, "-v2")
    assert done.returncode == 0 and "inotify" in done.stderr, done.stderr
    lab.reap()
    (victim.directory / "watched" / "more").unlink()
    lab.restore(images)
    assert victim.ask() == "ok"


def test_what_is_watched_is_searched_for_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "path_of", lambda handle: "")  # as where no handle can be opened
    path = tmp_path / "far" / "away" / "watched"
    path.parent.mkdir(parents=True)
    path.touch()
    script = f"import ctypes\nlibc = ctypes.CDLL(None)\nlibc.inotify_add_watch(libc.inotify_init1(0), {str(path)!r}.encode(), 2)"
    with running(*python(script)) as process:
        for searched, count in ((), 1), ((str(tmp_path),), 0):
            with FilesDump(DumpOptions(tree=process.pid, images_dir="", irmap_scan_path=searched)) as files:
                assert len([found for found in files.preflight([process.pid]) if "inotify" in found.where]) == count


def test_what_is_watched_must_be_there(lab: Lab) -> None:
    victim = lab.start("open_files", "watches")
    images = lab.dump(victim.pid, "1")
    lab.reap()
    (victim.directory / "file").unlink()
    done = lab.engine("restore", "--images-dir", images, "--restore-detached")
    assert done.returncode and f"{victim.directory}/file, which is watched, cannot be found" in done.stderr


def test_pidfds_of_threads(lab: Lab) -> None:
    try:
        os.close(os.pidfd_open(os.getpid(), PIDFD_THREAD))
    except OSError:
        pytest.skip("this kernel has no pidfds of threads (Linux 6.9)")
    victim = lab.start("open_files", "threads")
    assert victim.ask() == "ok"
    before = seen(victim)
    lab.dump(victim.pid, "1", "--leave-running")
    assert victim.ask() == "ok"
    images = lab.dump(victim.pid, "2")
    lab.reap()
    lab.restore(images)
    assert_same(before, seen(victim))
    assert victim.ask() == "ok"


def test_a_process_outside_of_the_tree_is_none_of_it(lab: Lab) -> None:
    victim = lab.start("unsupported", "pidfd")
    done = lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1"))
    assert done.returncode and "a pidfd of process 1, which is not in the tree" in done.stderr
