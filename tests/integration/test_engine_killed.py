# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL to the engine at any moment: the target of a dump runs on, a restore leaves all of a tree or nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from look import TRACKER
from test_refusals import living
from victim import PATIENCE, PROGRAMS, Lab, Victim, children, engine, state, until

TIMES = 15


def start(lab: Lab, program: str) -> Victim:
    """Start PROGRAM, one that bears what a mere stop does to a system call."""
    return lab.start("threads", "lenient", rseq=True) if program == "threads" else lab.start(program)


def kill_at(seconds: float, *words: object) -> bool:
    """Run the engine, kill it after SECONDS; return whether it had not ended by itself."""
    with subprocess.Popen(engine(*words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
    return False


def assert_unharmed(victim: Victim, spinning: bool) -> None:
    """Fail unless VICTIM runs on, untraced, and finds all in order."""
    for tid in map(int, os.listdir(f"/proc/{victim.pid}/task")):
        until(lambda tid=tid: state(victim.pid, tid) not in "Tt", f"thread {tid} is stopped")  # type: ignore[misc]
        assert "TracerPid:\t0\n" in Path(f"/proc/{victim.pid}/task/{tid}/status").read_text()
    assert victim.ask() == "ok"


@pytest.mark.parametrize("program", ["threads", "memory", "registers", "channels"])
def test_in_a_dump(lab: Lab, program: str) -> None:
    victim = start(lab, program)
    moments = random.Random(program)
    started = time.monotonic()
    lab.dump(victim.pid, "whole", "--track-mem", "--leave-running")
    duration = time.monotonic() - started
    killed = 0
    for number in range(TIMES):
        path = lab.images(str(number))
        last = random.Random(number).random() < 0.3
        options = ["--track-mem"] + ([] if last else ["--leave-running", f"--freeze={moments.choice(['hold', 'snapshot', 'auto'])}"])
        if last:
            options.append("--leave-stopped")  # had it come to its end, it would have been continued
        killed += kill_at(duration * moments.uniform(0.3, 1.0), "dump", "--tree", victim.pid, "--images-dir", path, *options)
        if state(victim.pid) == "T":
            os.kill(victim.pid, signal.SIGCONT)
        assert_unharmed(victim, program == "registers")
        until(lambda: living(lab) == {victim.pid}, "a snapshot outlives its engine")
        if not (path / "inventory.img").exists():
            assert lab.engine("restore", "--images-dir", path, "--restore-detached").returncode == 1
    assert killed
    good = lab.dump(victim.pid, "good", "--prev-images-dir=../whole")
    lab.reap()
    lab.restore(good)
    assert victim.ask() == "ok"


@pytest.mark.parametrize(("program", "freeze", "stride"), [("channels", "snapshot", 1), ("identity", "hold", 3), ("threads", "auto", 11)])
def test_at_every_step_of_a_dump(lab: Lab, program: str, freeze: str, stride: int) -> None:
    victim = start(lab, program)
    step = 0
    while True:
        command = [sys.executable, str(PROGRAMS / "dying_engine.py"), str(step), "dump", "--tree", str(victim.pid), "--leave-running"]
        command += ["--track-mem", f"--freeze={freeze}", "--images-dir", str(lab.images(str(step)))]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert_unharmed(victim, spinning=False)
        until(lambda: living(lab) == {victim.pid}, "a snapshot outlives its engine")
        if done.returncode != -signal.SIGKILL:
            break
        step += stride
    assert done.returncode == 0 and step > 40, done.stderr
    links = [os.readlink(f"/proc/{victim.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{victim.pid}/fd")]
    assert links.count(TRACKER) == 1
    lab.reap()
    lab.restore(lab.folder / "images" / str(step))
    assert victim.ask() == "ok"


@pytest.mark.parametrize("program", ["threads", "memory", "identity"])
def test_in_a_restore(lab: Lab, program: str) -> None:
    victim = start(lab, program)
    path = lab.dump(victim.pid, "1", "--track-mem")
    lab.reap()
    moments = random.Random(program)
    started = time.monotonic()
    lab.restore(path)
    duration = time.monotonic() - started
    lab.end(victim.pid)
    killed = 0
    for _round in range(TIMES):
        killed += kill_at(duration * moments.uniform(0.3, 1.0), "restore", "--images-dir", path, "--restore-detached")
        if victim.pid in children():
            assert answers_or_is_killed(victim)
        until(lambda: not living(lab) or victim.pid in living(lab), "half a tree is left")
        lab.reap()
    assert killed
    lab.restore(path, "--track-mem")
    assert victim.ask() == "ok"


def answers_or_is_killed(victim: Victim) -> bool:
    """Tell whether VICTIM has been restored whole, or else ended by the SIGKILL that follows the engine's end."""
    try:
        return victim.ask() == "ok"
    except AssertionError:
        return os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT).si_status == signal.SIGKILL  # type: ignore[union-attr]
