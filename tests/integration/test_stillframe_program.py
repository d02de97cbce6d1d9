# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""bin/stillframe as a program: what it needs to start, and in which interpreter it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _engine.cli import interpreter
from _engine.errors import UsageError

STILLFRAME = str(Path(__file__).parent.parent.parent / "bin" / "stillframe")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("word", ["--help", "--version", "--bogus"])
def test_what_only_talks_needs_none_of_the_packages(word: str) -> None:
    script = (
        "import runpy, sys; sys.modules['google'] = sys.modules['ptrace'] = None; "
        f"sys.argv = ['stillframe', {word!r}]; runpy.run_path({STILLFRAME!r}, run_name='__main__')"
    )
    done = run(sys.executable, "-c", script)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if word == "--bogus" else 0)


def test_it_goes_on_in_an_interpreter_that_has_the_packages() -> None:
    """Without site-packages (-S) the packages are missing."""
    done = run(sys.executable, "-S", STILLFRAME, "check", "--feature", "ns_pid", STILLFRAME_PYTHON=sys.executable)
    assert (done.stdout, done.stderr, done.returncode) == ("ns_pid is supported\n", "", 0)


def test_inherited_descriptors_survive_that() -> None:
    ours, theirs = os.pipe()
    done = subprocess.run(
        [sys.executable, "-S", STILLFRAME, "dump", "-t", "4194304", "--status-fd", str(theirs), "-D", "/proc"],
        pass_fds=(theirs,),
        env={**os.environ, "STILLFRAME_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert "--status-fd" not in done.stderr
    assert done.returncode == 1


def test_without_any_such_interpreter_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "missing_packages", lambda images_only=False: ("protobuf", "python-ptrace"))
    monkeypatch.setattr(interpreter, "_capable", lambda environment: None)
    with pytest.raises(UsageError, match="packages protobuf and python-ptrace cannot be imported by .*; run `make venv`, or install"):
        interpreter.require_packages(["stillframe"])


def test_it_goes_on_elsewhere_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_REEXECUTED", "1")
    monkeypatch.setattr(interpreter, "missing_packages", lambda images_only=False: ("protobuf",))
    monkeypatch.setattr(interpreter, "_capable", lambda environment: "/bin/false")
    with pytest.raises(UsageError, match="package protobuf cannot be imported"):
        interpreter.require_packages(["stillframe"])
    assert "STILLFRAME_REEXECUTED" not in os.environ


def test_a_script_of_a_verb_that_is_told_to_end_is_not_waited_for(tmp_path: Path) -> None:
    """SIGTERM ends the verb with its own status, after it has cleaned up."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho there >{tmp_path}/fifo\nsleep 60\n")
    script.chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    stub = (
        "import sys, types; stub = types.ModuleType('_engine.dump'); sys.modules['_engine.dump'] = stub\n"
        "stub.dump = lambda options, log: options.hook('pre-dump', {})\n"
        f"sys.path.insert(0, {str(Path(STILLFRAME).parent.parent / 'plugins' / 'module_utils')!r})\n"
        "from _engine.cli.program import main\n"
        f"sys.exit(main(['stillframe', 'dump', '-t', '5', '-D', {str(tmp_path)!r}, '--action-script', {str(script)!r}, '-o', 'log']))"
    )
    process = subprocess.Popen([sys.executable, "-c", stub], stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert (tmp_path / "fifo").read_text() == "there\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _output, told = process.communicate(timeout=30)
    os.killpg(process.pid, signal.SIGKILL)
    assert time.monotonic() - begun < 30
    assert (process.returncode, told) == (143, "stillframe dump: ended by SIGTERM\n")
