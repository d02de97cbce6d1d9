# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The program from its words to the engine: a verb that only records what it is asked stands for the engine's."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from _engine.chains.retention import Rule
from _engine.cli.program import main
from _engine.dedup import DedupResult
from _engine.errors import TargetError
from _engine.options import DumpOptions, RestoreOptions
from _engine.progress import Progress
from _engine.results import DumpResult, Fault, KeptDump, PruneResult, RestoreResult, SquashResult, VerifyResult

PID = "4711"


class Engine:
    """Verbs that record their options, run the hook at CRIU's stages, and succeed unless told to fail."""

    def __init__(self) -> None:
        self.asked: Any = None
        self.failure: Exception | None = None
        self.directory = ""

    def _ask(self, options: Any) -> None:
        self.asked = options
        self.directory = os.getcwd()
        if self.failure is not None:
            raise self.failure

    def dump(self, options: DumpOptions, log: Any) -> DumpResult:
        self._ask(options)
        options.hook("pre-dump", {})
        options.hook("post-dump", {"CRTOOLS_INIT_PID": PID})
        return DumpResult("d", "id", "", (1,), "none", "none", "hold", 30, 20, 10, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, "killed")

    def restore(self, options: RestoreOptions, log: Any) -> RestoreResult:
        self._ask(options)
        for stage in ("pre-restore", "post-restore", "pre-resume", "post-resume"):
            options.hook(stage, {"CRTOOLS_INIT_PID": PID})
        return RestoreResult("d", "id", int(PID), (int(PID),), 1, 2, 3, 0, 4, 5, 6, "running")

    def dedup(self, images_dir: str, keep_restorable: bool = False) -> DedupResult:
        self._ask((images_dir, "keep") if keep_restorable else images_dir)
        return DedupResult(images_dir, 1, 4096, 8192, 4096, ("../1",))

    def squash(self, images_dir: str, keep_parents: bool) -> SquashResult:
        self._ask((images_dir, keep_parents))
        return SquashResult(images_dir, True, 1, ("1",), 4096, 8192, 4096)

    def prune(self, root: str, rule: Rule, check: bool) -> PruneResult:
        self._ask((root, rule, check))
        return PruneResult(root, (KeptDump("2", "2026-11-25", ("last",), None, True),), ("1",), 4096, 8192, 4096)

    def verify(self, images_dir: str, progress: Progress) -> VerifyResult:
        self._ask(images_dir)
        return VerifyResult(images_dir, False, (Fault("f", 5, "f is damaged; use another"),), (), 0, 1)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    verbs = {"dump": engine.dump, "pre_dump": engine.dump, "restore": engine.restore, "dedup": engine.dedup}
    verbs = {**verbs, "squash": engine.squash, "prune": engine.prune, "verify": engine.verify}
    for module, verb in verbs.items():
        stub = ModuleType(f"_engine.{module}")
        setattr(stub, module, verb)
        monkeypatch.setitem(sys.modules, f"_engine.{module}", stub)
    return engine


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a directory that has images/ and work/."""
    (tmp_path / "images").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    here = os.getcwd()
    try:
        return main(("stillframe", *arguments))
    finally:
        os.chdir(here)


def test_a_dump_is_asked_for_what_the_words_say(engine: Engine, there: Path) -> None:
    words = "dump -t 5 -D images -W work -R --track-mem --prev-images-dir ../1/ -j -l --auto-dedup --tcp-established -x --force"
    assert run(*words.split(), "--ghost-limit=2M", "--timeout=3", "--tracker=compare", "--freeze=hold") == 0
    assert engine.asked == DumpOptions(
        tree=5,
        images_dir=str(there / "images"),
        work_dir=str(there / "work"),
        prev_images_dir="../1/",
        leave_running=True,
        track_mem=True,
        tracker="compare",
        freeze="hold",
        auto_dedup=True,
        shell_job=True,
        file_locks=True,
        ext_unix_sk=True,
        tcp_established=True,
        ghost_limit=2 << 20,
        timeout=3.0,
        force=True,
    )
    assert engine.directory == str(there / "work")


def test_a_restore_is_asked_for_what_the_words_say(engine: Engine, there: Path) -> None:
    assert run("restore", "-d", "-D", "images", "-s", "-j", "--file-validation", "filesize", "--track-mem", "--auto-dedup") == 0
    images = str(there / "images")
    assert engine.asked == RestoreOptions(
        images, images, leave_stopped=True, shell_job=True, auto_dedup=True, track_mem=True, file_validation="filesize"
    )


def test_dedup_is_given_the_images(engine: Engine, there: Path) -> None:
    assert run("dedup", "-D", "images", "-W", "work") == 0
    assert engine.asked == str(there / "images")
    assert run("dedup", "-D", "images", "--keep-restorable") == 0
    assert engine.asked == (str(there / "images"), "keep")


def test_squash_is_told_of_the_parents(engine: Engine, there: Path) -> None:
    assert run("squash", "-D", "images", "--keep-parents") == 0
    assert engine.asked == (str(there / "images"), True)


def test_prune_is_given_the_rule(engine: Engine, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--keep-last 3 --keep-hourly 24 --keep-daily=7 --keep-weekly 4 --keep-within 1d12h --dry-run"
    assert run("prune", "-D", "images", *words.split()) == 0
    assert engine.asked == (str(there / "images"), Rule(3, 24, 7, 4, "1d12h"), True)
    assert capsys.readouterr().out == "keep 2 (last, made anew on top of none)\nremove 1\n4096 bytes would be freed\n"


def test_verify_fails_with_the_faults(engine: Engine, there: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "-D", "images") == 1
    said = capfd.readouterr()
    assert "f is damaged; use another" in said.err and said.out == "0 dumps, 0 bytes of pages, 1 faults\n"


@pytest.mark.parametrize("words", [("dump", "-t", "5"), ("pre-dump", "-t", "5"), ("restore", "-d"), ("dedup",)])
def test_the_log_is_made_even_when_all_goes_well(engine: Engine, there: Path, words: tuple[str, ...]) -> None:
    assert run(*words, "-D", "images", "-o", "log") == 0
    assert (there / "images" / "log").read_text() == ""
    assert run(*words, "-D", "images", "-W", "work", "-o", "log", "-v4") == 0
    assert "Version: " in (there / "work" / "log").read_text()


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("dump", "-t", "5"), "Dumping FAILED."),
        (("pre-dump", "-t", "5"), "Pre-dumping FAILED."),
        (("restore", "-d"), "Restoring FAILED."),
    ],
)
def test_a_failure_is_one_sentence_and_the_last_line_of_the_log(
    engine: Engine, there: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], last: str
) -> None:
    engine.failure = TargetError("process 5 is a zombie; name another one")
    assert run(*words, "-D", "images", "-o", "log") == 1
    assert capfd.readouterr().err == f"stillframe {words[0]}: process 5 is a zombie; name another one\n"
    assert (there / "images" / "log").read_text().splitlines()[-1].endswith(last)


def test_an_error_of_the_system_is_a_sentence_too(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.failure = OSError(28, "No space left on device", "pages-1.img")
    assert run("dump", "-t", "5", "-D", "images", "-o", "log") == 1
    assert capfd.readouterr().err == "stillframe dump: pages-1.img: No space left on device\n"


def test_the_pidfile_is_the_pid_and_nothing_else(engine: Engine, there: Path) -> None:
    assert run("restore", "-d", "-D", "images", "-W", "work", "--pidfile", "pid") == 0
    assert (there / "work" / "pid").read_bytes() == PID.encode()
    engine.asked = None
    assert run("restore", "-d", "-D", "images", "-W", "work", "--pidfile", "pid") == 1
    assert engine.asked is None, "the restore began though the pidfile existed"


def test_the_status_fd_gets_one_zero_and_is_closed(engine: Engine) -> None:
    ours, theirs = os.pipe()
    try:
        assert run("dump", "-t", "5", "-D", "images", "--status-fd", str(theirs)) == 0
        assert os.read(ours, 10) == b"\0"
        assert os.read(ours, 10) == b"", "it was left open"
    finally:
        os.close(ours)


def test_the_status_fd_gets_nothing_on_failure(engine: Engine) -> None:
    engine.failure = TargetError("no")
    ours, theirs = os.pipe()
    try:
        assert run("dump", "-t", "5", "-D", "images", "--status-fd", str(theirs)) == 1
        os.close(theirs)
        assert os.read(ours, 10) == b""
    finally:
        os.close(ours)


def test_a_status_fd_that_is_not_open_stops_all_in_time(engine: Engine) -> None:
    assert run("dump", "-t", "5", "-D", "images", "--status-fd", "987") == 1
    assert engine.asked is None


def test_other_descriptors_are_left_alone_unless_named(engine: Engine) -> None:
    kept = os.open("/dev/null", os.O_RDONLY)
    closed = fcntl.fcntl(kept, fcntl.F_DUPFD, 500)  # a number that nothing else takes
    assert run("restore", "-d", "-D", "images", "--close", str(closed)) == 0
    os.fstat(kept)
    os.close(kept)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(closed)


@pytest.mark.parametrize(("stage", "verb", "status"), [("post-dump", "dump", 255), ("pre-dump", "dump", 1), ("post-restore", "restore", 1)])
def test_a_failing_script_fails_the_verb(engine: Engine, there: Path, stage: str, verb: str, status: int) -> None:
    script = there / "script"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != {stage} ]\n')
    script.chmod(0o755)
    assert run(verb, "-d", "-t", "5", "-D", "images", "--action-script", str(script), "-o", "log") == status


@pytest.mark.parametrize("stage", ["pre-resume", "post-resume"])
def test_a_script_that_fails_too_late_is_only_logged(engine: Engine, there: Path, stage: str) -> None:
    script = there / "script"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != {stage} ]\n')
    script.chmod(0o755)
    assert run("restore", "-d", "-D", "images", "--action-script", str(script), "-o", "log") == 0
    assert f"stage {stage}" in (there / "images" / "log").read_text()


def test_the_statistics_are_printed_when_asked_for(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("dump", "-t", "5", "-D", "images", "--display-stats") == 0
    printed = capfd.readouterr().out.splitlines()
    assert {"Displaying dump stats:", "Frozen time: 2 us", "Memory pages written: 10 (0xa)"} <= set(printed)
    assert run("restore", "-d", "-D", "images", "--display-stats") == 0
    assert {"Displaying restore stats:", "Pages restored: 3 (0x3)", "Restore time: 5 us"} <= set(capfd.readouterr().out.splitlines())


def test_the_log_may_go_to_standard_output(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("restore", "-d", "-D", "images", "-o", "-", "-v4") == 0
    assert "Restore finished successfully" in capfd.readouterr().out


REFUSED: list[tuple[tuple[str, ...], int, str]] = [
    (("lazy-pages",), 1, "command lazy-pages is not supported yet"),
    (("cpuinfo", "dump"), 1, "command cpuinfo is not supported yet"),
    (("service",), 1, "command service is not supported yet"),
    (("swrk", "3"), 1, "command swrk is not supported yet"),
    (("exec",), 255, "exec is not a command any more"),
    (("show",), 255, "show is not a command any more"),
    (("bogus",), 1, "command bogus is unknown"),
    (("-D", "images"), 1, "no command is given"),
    (("dump", "-D", "images"), 1, "no process is named; name the root of the tree with --tree PID"),
    (("dump", "-t", "5", "extra"), 1, "command dump takes no 'extra'"),
    (("dump", "-t", "5", "-D", "nowhere"), 1, "/nowhere does not exist; make it first"),
    (("dump", "-t", "5", "-D", "images", "-W", "nowhere"), 1, "/nowhere cannot be entered"),
    (("dump", "--exec-cmd", "--", "sh"), 1, "--exec-cmd makes no sense with dump"),
    (("restore", "-D", "images", "--exec-cmd"), 1, "--exec-cmd needs a command"),
    (("restore", "-d", "-D", "images", "--exec-cmd", "--", "sh"), 1, "exclude each other"),
]


@pytest.mark.parametrize(("words", "status", "message"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None)
def test_what_makes_no_sense_is_refused_before_the_engine_is_asked(
    engine: Engine, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, message: str
) -> None:
    assert run(*words) == status
    assert message in capfd.readouterr().err
    assert engine.asked is None


def test_help_and_usage(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "--track-mem" in capfd.readouterr().out
    assert run("dump", "-h", "--bogus") == 0
    assert run() == 1
    assert "Usage:" in capfd.readouterr().out


def test_a_foreground_restore_waits_for_the_tree_and_says_nothing_of_its_end(engine: Engine, there: Path) -> None:
    def with_child(verb: Callable[[RestoreOptions, Any], RestoreResult]) -> Callable[[RestoreOptions, Any], RestoreResult]:
        def restore(options: RestoreOptions, log: Any) -> RestoreResult:
            result = verb(options, log)
            child = os.fork()
            if not child:
                (there / "ended").touch()
                os._exit(7)
            return result

        return restore

    sys.modules["_engine.restore"].restore = with_child(engine.restore)  # type: ignore[attr-defined]
    assert run("restore", "-D", "images") == 0
    assert (there / "ended").exists()
    with pytest.raises(ChildProcessError):
        os.wait()
