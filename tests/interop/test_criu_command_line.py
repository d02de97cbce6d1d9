# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The same command lines given to CRIU and to stillframe: the same exit status, log file, pidfile and streams.

CRIU is the program that $STILLFRAME_CRIU names; tests/interop/get-criu fetches one.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CRIU = os.environ.get("STILLFRAME_CRIU", "")
STILLFRAME = str(Path(__file__).parent.parent.parent / "bin" / "stillframe")
PROGRAMS = {"criu": [CRIU], "stillframe": [sys.executable, STILLFRAME]}

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]

NO_PROCESS = "4194305"  # above the kernel's highest PID


@dataclass(frozen=True)
class Outcome:
    """What is compared: the exit status, and of each file that was made the place, the mode and whether it is empty."""

    status: int
    files: tuple[tuple[str, str, bool], ...]
    has_output: bool
    has_errors: bool


def outcome(program: list[str], directory: Path, words: tuple[str, ...]) -> Outcome:
    for name in ("images", "work"):
        (directory / name).mkdir(parents=True)
    done = subprocess.run([*program, *words], cwd=directory, capture_output=True, check=False, timeout=60)
    made = sorted(path for path in directory.rglob("*") if path.is_file())
    files = tuple((str(path.relative_to(directory)), stat.filemode(path.stat().st_mode), not path.stat().st_size) for path in made)
    return Outcome(done.returncode, files, bool(done.stdout), bool(done.stderr))


SAME: list[tuple[str, ...]] = [
    (),
    ("--help",),
    ("-h",),
    ("dump", "-h"),
    ("--bogus", "--help"),
    ("-V",),
    ("--version",),
    ("dump", "--version", "--bogus"),
    ("check",),
    ("check", "--feature", "uffd"),
    ("check", "--feature=pagemap_scan"),
    ("check", "--feature", "clone3_set_tid"),
    ("-verbosity=0", "check"),
    ("check", "-o", "log", "-W", "work"),
    ("check", "--no-default-config", "-o", "log", "-v4", "-W", "work"),
    ("check", "-o", "-"),
]

SAME_REFUSALS: list[tuple[str, ...]] = [
    ("bogus",),
    ("-D", "images"),
    ("dump", "--bogus"),
    ("dump", "-Z"),
    ("dump", "--tr", "5"),
    ("dump", "-t"),
    ("dump", "--track-mem=yes", "-t", NO_PROCESS),
    ("dump", "-D", "images", "-t", "abc"),
    ("dump", "-D", "images", "-t", "0"),
    ("dump", "-D", "images", "-t", NO_PROCESS, "extra"),
    ("dump", "-D", "nowhere", "-t", NO_PROCESS),
    ("dump", "-D", "images", "-W", "nowhere", "-t", NO_PROCESS),
    ("dump", "-D", "images", "-o", "no/log", "-t", NO_PROCESS),
    ("dump", "-D", "images", "-t", NO_PROCESS, "--pre-dump-mode", "x"),
    ("dump", "-D", "images", "-t", NO_PROCESS, "--network-lock", "x"),
    ("dump", "-D", "images", "-t", NO_PROCESS, "--file-validation", "x"),
    ("dump", "--exec-cmd", "-D", "images", "-t", NO_PROCESS, "--", "true"),
    ("restore", "--exec-cmd", "-D", "images"),
    ("restore", "--restore-sibling", "-D", "images"),
    ("restore", "--config", "nowhere", "--exec-cmd"),
    ("check", "--feature", "nonsense"),
    ("cpuinfo",),
    ("cpuinfo", "bogus"),
]


def outcomes(tmp_path: Path, words: tuple[str, ...]) -> tuple[Outcome, Outcome]:
    return outcome(PROGRAMS["criu"], tmp_path / "criu", words), outcome(PROGRAMS["stillframe"], tmp_path / "stillframe", words)


@pytest.mark.parametrize("words", SAME, ids=" ".join)
def test_what_succeeds_looks_the_same(tmp_path: Path, words: tuple[str, ...]) -> None:
    theirs, ours = outcomes(tmp_path, words)
    assert (ours.status, ours.files, ours.has_output) == (theirs.status, theirs.files, theirs.has_output)


@pytest.mark.parametrize("words", SAME_REFUSALS, ids=" ".join)
def test_what_is_refused_has_the_same_status_and_a_reason(tmp_path: Path, words: tuple[str, ...]) -> None:
    theirs, ours = outcomes(tmp_path, words)
    assert (ours.status, ours.files) == (theirs.status, theirs.files)
    assert ours.has_errors


@pytest.mark.parametrize("verb", ["exec", "show"])
def test_the_deprecated_verbs_have_the_same_status(tmp_path: Path, verb: str) -> None:
    theirs, ours = outcomes(tmp_path, (verb,))
    assert ours.status == theirs.status == 255


@pytest.mark.parametrize(
    ("words", "log"),
    [
        (("dump", "-t", NO_PROCESS, "-D", "images", "-o", "log"), "images/log"),
        (("-o", "log", "-D", "images", "dump", "-W", "work", "-t", NO_PROCESS), "work/log"),
        (("restore", "-D", "images", "--log-file=log", "-v4"), "images/log"),
    ],
)
def test_a_verb_that_fails_leaves_its_log_in_the_same_place(tmp_path: Path, words: tuple[str, ...], log: str) -> None:
    theirs, ours = outcomes(tmp_path, words)
    assert ours.status == theirs.status == 1
    assert (log, "-rw-------", False) in theirs.files
    assert (log, "-rw-------", False) in ours.files


@pytest.fixture
def victim() -> Iterator[int]:
    """A process in a session of its own, without descriptors from outside."""
    null = os.open(os.devnull, os.O_RDWR)
    process = subprocess.Popen(["/bin/sleep", "1000"], stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True)
    os.close(null)
    yield process.pid
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.wait()


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(params=sorted(PROGRAMS))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run one of the programs in a directory that has images/ and work/."""
    for name in ("images", "work"):
        (tmp_path / name).mkdir()

    def run(*words: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[bytes]:
        command = [*PROGRAMS[request.param], *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60, pass_fds=pass_fds)

    return run


def end(pid: int) -> None:
    """End PID, a process restored detached: a child of init by now."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
            pass


def test_a_driver_sees_the_same_of_a_dump_and_a_restore(tmp_path: Path, run: Run, victim: int) -> None:
    """Each program by itself, held to what CRIU does."""
    dumped = run("dump", "--tree", str(victim), "--images-dir=images", "-W", "work", "-o", "dump.log", "-v4", "--no-default-config")
    assert dumped.returncode == 0, (tmp_path / "work" / "dump.log").read_text()
    assert os.waitpid(victim, 0)[1] == signal.SIGKILL
    assert (tmp_path / "work" / "stats-dump").exists()
    assert not (tmp_path / "images" / "dump.log").exists()
    log = (tmp_path / "work" / "dump.log").read_text().splitlines()
    assert log[-1].endswith("Dumping finished successfully")

    restored = run("restore", "-d", "-D", "images", "-W", "work", "--pidfile", "pid", "-o", "restore.log")
    try:
        assert restored.returncode == 0, (tmp_path / "work" / "restore.log").read_text()
        pidfile = tmp_path / "work" / "pid"
        assert pidfile.read_bytes() == str(victim).encode()
        assert stat.S_IMODE(pidfile.stat().st_mode) == 0o600
        assert (tmp_path / "work" / "stats-restore").exists()
    finally:
        end(victim)

    again = run("restore", "-d", "-D", "images", "-W", "work", "--pidfile", "pid", "-o", "again.log")
    assert again.returncode == 1, "a pidfile was overwritten"


@pytest.mark.parametrize(("stage", "status"), [("pre-dump", 1), ("post-dump", 255)])
def test_a_failing_script_fails_the_dump_and_the_task_runs_on(tmp_path: Path, run: Run, victim: int, stage: str, status: int) -> None:
    script = tmp_path / "script"
    script.write_text(
        f'#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION ${{CRTOOLS_INIT_PID:-none}} $(ls "$CRTOOLS_IMAGE_DIR" | wc -w)" >>{tmp_path}/told\n'
        f'[ "$CRTOOLS_SCRIPT_ACTION" != {stage} ]\n'
    )
    script.chmod(0o755)
    done = run("dump", "-t", str(victim), "-D", "images", "-o", "dump.log", "--action-script", str(script))
    assert done.returncode == status, (tmp_path / "images" / "dump.log").read_text()
    assert Path(f"/proc/{victim}/stat").read_text().rsplit(")", 1)[1].split()[0] in "RS"  # it is neither stopped nor gone
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert [line[0] for line in told] == ["pre-dump", "post-dump"][: len(told)]
    assert told[-1][0] == stage
    if stage == "post-dump":
        assert told[-1][1] == str(victim)
        assert int(told[-1][2]) > 3, "the images are not where the script was told"


def test_the_scripts_of_a_restore_run_at_the_same_stages(tmp_path: Path, run: Run, victim: int) -> None:
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION" >>{tmp_path}/told\n')
    script.chmod(0o755)
    assert run("dump", "-t", str(victim), "-D", "images", "-o", "dump.log").returncode == 0
    os.waitpid(victim, 0)
    restored = run("restore", "-d", "-D", "images", "-o", "restore.log", "--action-script", str(script))
    end(victim)
    assert restored.returncode == 0, (tmp_path / "images" / "restore.log").read_text()
    assert (tmp_path / "told").read_text().split() == ["pre-restore", "post-restore", "pre-resume", "post-resume"]


def test_a_foreground_restore_waits_and_its_status_is_not_that_of_the_tree(tmp_path: Path, run: Run, victim: int) -> None:
    assert run("dump", "-t", str(victim), "-D", "images", "-o", "dump.log").returncode == 0
    os.waitpid(victim, 0)
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" = post-resume ] && kill -9 {victim}\ntrue\n')
    script.chmod(0o755)
    restored = run("restore", "-D", "images", "-o", "restore.log", "--action-script", str(script))
    assert restored.returncode == 0
    assert not Path(f"/proc/{victim}").exists(), "the restored task was not waited for"
