# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files in step with memory: kept by a dump, put back by a restore, and left as they were by one that fails or is killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from victim import PATIENCE, PROGRAMS, Lab, Victim, children, read_line, sentence, state, until

KEEP = ("--files", "open", "--file-locks")
BACK = ("--restore-files", "--file-locks")


def start(lab: Lab) -> Victim:
    """Start the program, and return when it is ready."""
    folder = lab.folder / "state"
    folder.mkdir()
    for pipe in ("ask", "answer"):
        os.mkfifo(folder / pipe)
    answers = os.open(folder / "answer", os.O_RDWR | os.O_CLOEXEC)
    pid = lab.spawn([sys.executable, str(PROGRAMS / "ledger.py"), str(folder)]).pid
    assert read_line(answers, pid) == "ready"
    os.close(answers)
    return Victim(folder, pid)


def content(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all regular files below FOLDER with what tells them apart from others."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), *_status(path.stat())) for path in found}


def _status(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink


def kept(path: Path) -> dict[str, dict[str, object]]:
    """Return the records of the kept files of a dump by the names of the files."""
    records = json.loads((path / "stillframe.json").read_text())["kept"]["files"]
    return {Path(record["path"]).name: record for record in records}


@pytest.fixture
def chain(lab: Lab) -> Iterator[tuple[Victim, list[Path], list[dict[str, tuple[object, ...]]]]]:
    """The program, three dumps of it, and its files at each; the last dump has ended it."""
    victim = start(lab)
    dumps, states = [], []
    for number in (1, 2, 3):
        assert victim.ask(f"add {number * 10}") == "ok"
        last = ["--leave-running"] if number < 3 else []
        on_top = ["--prev-images-dir", f"../{number - 1}"] if number > 1 else []
        dumps.append(lab.dump(victim.pid, str(number), "--track-mem", *KEEP, *last, *on_top))
        if number < 3:
            victim.await_rest()
        states.append(content(victim.directory))
    lab.reap()
    yield victim, dumps, states


def test_any_dump_in_any_order(lab: Lab, chain: tuple[Victim, list[Path], list[dict[str, tuple[object, ...]]]]) -> None:
    victim, dumps, states = chain
    names = {"log", "base.sqlite", "base.sqlite-wal", "base.sqlite-shm", "mapped", "one", "sparse"}
    assert set(kept(dumps[0])) == names
    assert [path.stat().st_mode & 0o7777 for path in (dumps[0] / "stillframe-files", dumps[0] / "stillframe-files" / "1")] == [0o700, 0o600]
    for number in (1, 0, 2):
        lab.restore(dumps[number], *BACK)
        counted = sum(10 * (one + 1) for one in range(number + 1))
        found, then = content(victim.directory), states[number]
        for name in then:
            if not name.endswith("-shm"):  # which the check of the test's own program changed by locking it
                assert found[name] == then[name], name
        assert victim.ask() == f"ok {counted}"
        assert (victim.directory / "sparse").stat().st_blocks < 64
        links = [os.readlink(f"/proc/{victim.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{victim.pid}/fd")]
        assert str(victim.directory / "deep" / "er" / "log") in links and not any("stillframe" in link for link in links)
        assert victim.ask("add 5") == "ok"
        assert victim.ask() == f"ok {counted + 5}"
        lab.end(victim.pid)
        if number == 0:
            shutil.rmtree(victim.directory / "deep")
            (victim.directory / "sparse").unlink()
            (victim.directory / "base.sqlite-journal").write_bytes(b"of another time")
    assert not list(victim.directory.rglob(".*"))
    assert not (victim.directory / "base.sqlite-journal").exists()


def dumped(lab: Lab) -> tuple[Victim, Path]:
    """Return a victim that a dump has ended, and the dump."""
    victim = start(lab)
    assert victim.ask("add 7") == "ok"
    path = lab.dump(victim.pid, "1", *KEEP)
    lab.reap()
    return victim, path


def test_killed_together_with_its_guardian(lab: Lab) -> None:
    victim, path = dumped(lab)
    log, mapped = victim.directory / "deep" / "er" / "log", victim.directory / "mapped"
    log.write_bytes(b"of another time")
    mapped.unlink()
    mapped.write_bytes(b"another file")
    before = content(victim.directory)
    script = lab.folder / "script"
    others = "$(ps -o pid= --ppid $PPID | grep -vw $$)"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-restore ] || {{ kill -STOP {others}; kill -9 {others} $PPID; }}\n')
    script.chmod(0o755)
    assert lab.engine("restore", "--images-dir", path, "--action-script", script, *BACK).returncode == -9
    lab.reap()
    assert content(victim.directory) != before
    script.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-restore ]\n')
    assert lab.engine("restore", "--images-dir", path, "--action-script", script, *BACK).returncode == 1
    assert content(victim.directory) == before


def test_a_drill_has_the_files_of_the_dump(lab: Lab) -> None:
    victim = start(lab)
    assert victim.ask("add 7") == "ok"
    path = lab.dump(victim.pid, "1", *KEEP, "--leave-running")
    victim.await_rest()
    assert victim.ask("add 5") == "ok"
    code = (
        "import sqlite3, sys; base = sqlite3.connect(sys.argv[1] + '/base.sqlite'); log = open(sys.argv[1] + '/deep/er/log').read();"
        "print(base.execute('SELECT count(*) FROM entry').fetchone(), base.execute('PRAGMA integrity_check').fetchone(), len(log))"
    )
    done = lab.engine("drill", "--images-dir", path, "--", sys.executable, "-c", code, victim.directory)
    assert (done.returncode, done.stdout) == (0, f"(7,) ('ok',) {7 * 15}\n"), done.stderr
    assert victim.ask() == "ok 12"


def test_killed_in_the_stop(lab: Lab) -> None:
    victim, path = start(lab), lab.images("1")
    assert victim.ask("add 7") == "ok"
    for step in (8, 24):
        command = [sys.executable, str(PROGRAMS / "dying_engine.py"), str(step), "dump", "--tree", str(victim.pid), "--leave-running"]
        command += ["--force", "--images-dir", str(path), *KEEP]
        assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False).returncode == -9
        assert (path / "stillframe-files").is_dir() and not (path / "inventory.img").exists()
        victim.await_rest()
        assert victim.ask() == "ok 7"
    lab.run("dump", "--tree", victim.pid, "--images-dir", path, "--force", *KEEP)
    lab.reap()
    lab.restore(path, *BACK)
    assert victim.ask() == "ok 7"


def test_an_unchanged_file_is_there_once(lab: Lab) -> None:
    victim = start(lab)
    assert victim.ask("add 3") == "ok"
    until(lambda: (victim.directory / "sparse").stat().st_ctime_ns < _now() - 10**8, "the clock stands still")
    first = lab.dump(victim.pid, "1", *KEEP, "--leave-running", "--track-mem")
    victim.await_rest()
    second = lab.dump(victim.pid, "2", *KEEP, "--leave-running", "--track-mem", "--prev-images-dir=../1")
    victim.await_rest()
    third = lab.dump(victim.pid, "3", *KEEP, "--prev-images-dir=../2")
    inodes = [
        {name: (path / "stillframe-files" / str(one["name"])).stat().st_ino for name, one in kept(path).items()} for path in (first, second)
    ]
    assert {name for name in inodes[0] if inodes[0][name] != inodes[1][name]} == {"mapped", "base.sqlite-shm"}
    lab.reap()
    lab.run("squash", "--images-dir", second)
    lab.run("prune", "--images-dir", lab.folder / "images", "--keep-last", 2)
    assert not first.exists()
    archive, copy = lab.folder / "archive", lab.folder / "copy"
    lab.run("export", "--images-dir", third, "--archive", archive)
    lab.run("import", "--images-dir", copy, "--archive", archive)
    (victim.directory / "deep" / "er" / "log").write_bytes(b"lost")
    lab.restore(copy / second.name, *BACK)
    assert victim.ask() == "ok 3"


def _now() -> int:
    return time.time_ns()


def test_what_fails_changes_nothing(lab: Lab) -> None:
    victim, path = dumped(lab)
    log, sparse = victim.directory / "deep" / "er" / "log", victim.directory / "sparse"
    log.write_bytes(b"of another time")
    restore = ("restore", "--images-dir", path, "--restore-detached")
    before = content(victim.directory)
    (victim.directory / "mapped").rename(victim.directory / "elsewhere")
    refused = sentence(lab.engine(*restore, "--file-locks"))
    assert f"{victim.directory}/mapped" in refused and "restore_files does it" in refused
    (victim.directory / "elsewhere").rename(victim.directory / "mapped")
    with open(log, "ab"):
        refused = sentence(lab.engine(*restore, *BACK))
    assert f"{log}: process {os.getpid()} has it open for writing" in refused
    sparse.rename(victim.directory / "elsewhere")
    sparse.mkdir()
    assert f"{sparse}: it was a regular file at the dump, and is none now" in sentence(lab.engine(*restore, *BACK))
    sparse.rmdir()
    (victim.directory / "elsewhere").rename(sparse)
    copy = path / "stillframe-files" / str(kept(path)["log"]["name"])
    good = copy.read_bytes()
    copy.write_bytes(good.replace(b"3", b"4"))
    assert f"{copy}, which is {log} as it was at the dump, is damaged" in sentence(lab.engine(*restore, *BACK))
    assert lab.engine("verify", "--images-dir", path).returncode == 1
    copy.write_bytes(good)
    script = lab.folder / "script"
    script.write_text('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-restore ]\n')
    script.chmod(0o755)
    assert content(victim.directory) == before
    shutil.rmtree(victim.directory / "deep")
    assert lab.engine(*restore, "--action-script", script, *BACK).returncode == 1
    assert not (victim.directory / "deep").exists()
    assert content(victim.directory) == {name: one for name, one in before.items() if not name.startswith("deep")}


def test_killed_at_every_step_of_putting_back(lab: Lab) -> None:
    victim, path = dumped(lab)
    (victim.directory / "mapped").write_bytes(b"of another time")
    (victim.directory / "base.sqlite").unlink()
    before = content(victim.directory)
    step = 0
    while True:
        command = [sys.executable, str(PROGRAMS / "dying_putter.py"), str(step), "restore", "--images-dir", str(path)]
        command += ["--restore-detached", *BACK]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode >= 0:
            break
        for pid in children() - lab.before - {victim.pid}:
            os.waitpid(pid, 0)  # the guardian among them, which ends when all is decided
        if victim.pid in children() and state(victim.pid) != "Z":
            break  # it was killed when the tree ran already
        lab.reap()
        found = content(victim.directory)
        assert {name: found.get(name) for name in {*found, *before}} == {name: before.get(name) for name in {*found, *before}}, step
        step += 7
    assert step > 30, done.stderr
    assert victim.ask() == "ok 7"
    assert not list(victim.directory.rglob(".*"))
