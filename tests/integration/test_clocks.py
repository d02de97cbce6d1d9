# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Clocks that count from the start of the machine: time namespaces, and a restore where they are behind."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from _engine.images.manifest import read_manifest
from victim import Lab, Victim, engine, read_line, until

AHEAD = 1 << 20
"""Seconds."""
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/ns/time"), reason="this kernel has no time namespaces")


def start_inside(lab: Lab, into: list[str], program: str) -> Victim:
    """Start PROGRAM by the command INTO."""
    directory = lab.folder / program
    directory.mkdir()
    for pipe in ("ask", "answer"):
        os.mkfifo(directory / pipe)
    answers = os.open(directory / "answer", os.O_RDWR | os.O_CLOEXEC)
    try:
        environment = {**os.environ, "GLIBC_TUNABLES": "glibc.pthread.rseq=0"}
        process = lab.spawn([*into, str(lab.program(program)), str(directory)], env=environment)
        assert read_line(answers, process.pid) == "ready"
    finally:
        os.close(answers)
    return Victim(directory, process.pid)


@pytest.mark.parametrize("program", ["signals", "channels"])
def test_timers_in_a_time_namespace(lab: Lab, program: str) -> None:
    clocks = ["--monotonic", str(AHEAD), "--boottime", str(AHEAD)]
    holder = lab.spawn(["unshare", "--time", *clocks, "--fork", "sleep", "1000"]).pid
    children = Path(f"/proc/{holder}/task/{holder}/children")
    until(lambda: bool(children.read_text()), "there is no time namespace")
    into = ["nsenter", "--time", "--target", children.read_text().strip()]
    victim = start_inside(lab, into, program)
    outside = lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("outside"), "--leave-running")
    assert outside.returncode == 1 and f"process {victim.pid}, time namespace" in outside.stderr
    images = lab.images("1")
    for verb in (["dump", "--tree", victim.pid], ["restore", "--restore-detached"]):
        done = subprocess.run([*into, *engine(*verb, "--images-dir", images)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "CLOCK_" not in done.stderr, done.stderr
    manifest = read_manifest(str(images))
    assert manifest is not None and manifest.clocks["monotonic"] >= AHEAD * 10**9
    assert victim.ask() == "ok"
    lab.end(victim.pid)
    said = lab.run("restore", "--images-dir", images, "--restore-detached")
    behind = dict(re.findall(r"CLOCK_(\w+) is (\d+) s behind", said))
    assert set(behind) == {"MONOTONIC", "BOOTTIME"} and all(int(seconds) > AHEAD - 600 for seconds in behind.values())
    assert victim.ask() == "ok"
