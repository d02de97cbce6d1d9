# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of two incremental dumps of memory of every sort, with Debian's CRIU on a kernel where it can track memory."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from criu_chains import criu
from trackers import stillframe
from victim import ROOT, Victim

PROGRAMS = ("shared_memory",)
"""Of tests/programs; built on the host and laid into the machine."""
_PATIENCE = 60
_VERSION = subprocess.run(["criu", "--version"], capture_output=True, text=True, check=True).stdout
pytestmark = pytest.mark.skipif("Version: 3." in _VERSION, reason="CRIU 3.17 loses the permissions of a memfd")


@dataclass(frozen=True)
class Asked:
    """A program that answers through the named pipes in its directory, the one first started or one restored from its images."""

    directory: Path
    pid: int

    def ask(self, question: str) -> str:
        """Return the answer to QUESTION: "ok", or what is wrong."""
        asks, answers = (os.open(self.directory / name, os.O_RDWR) for name in ("ask", "answer"))
        try:
            os.write(asks, f"{question}\n".encode())
            return _line(answers)
        finally:
            os.close(asks)
            os.close(answers)

    def end(self) -> None:
        """Kill it and its children, and wait until they are gone."""
        pids = [self.pid]
        for pid in pids:
            path = Path(f"/proc/{pid}/task/{pid}/children")
            pids += [int(child) for child in path.read_text().split()] if path.exists() else []
        for pid in pids:
            Victim(pid, self.directory / "unused").end()


def _line(answers: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        ready, _writable, _failed = select.select([answers], [], [], _PATIENCE)
        assert ready, "no answer comes"
        line += os.read(answers, 1000)
    return line.decode().rstrip("\n")


@contextmanager
def started(program: str, directory: Path) -> Iterator[Asked]:
    """Run PROGRAM in DIRECTORY for the length of the block."""
    directory.mkdir()
    for name in ("ask", "answer"):
        os.mkfifo(directory / name)
    answers = os.open(directory / "answer", os.O_RDWR)
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [str(ROOT / program), str(directory)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd="/"
    )
    assert _line(answers) == "ready"
    os.close(answers)
    found = Asked(directory, process.pid)
    try:
        yield found
    finally:
        found.end()
        process.returncode = 0  # reaped above


def chain_by(dumper: str, target: Asked, folder: Path) -> list[Path]:
    """Dump TARGET, have it change its memory, and dump it on top of that, for good."""
    chain = [folder / "1", folder / "2"]
    for images, options in zip(chain, (("--leave-running",), ("--prev-images-dir", "../1"))):
        images.mkdir()
        if images is chain[1]:
            assert target.ask("change") == "ok"
        words = ("--tree", str(target.pid), "--track-mem", *options)
        if dumper == "criu":
            criu("dump", images, *words)
        else:
            done = stillframe("dump", "--images-dir", str(images), *words)
            assert done.returncode == 0, done.stderr
    return chain


@pytest.mark.parametrize("program", PROGRAMS)
def test_we_restore_each_dump_of_memory_by_criu(program: str, tmp_path: Path) -> None:
    with started(program, tmp_path / "victim") as target:
        for images in reversed(chain_by("criu", target, tmp_path)):
            target.end()
            done = stillframe("restore", "--images-dir", str(images), "--restore-detached")
            assert done.returncode == 0, done.stderr
            assert target.ask("check") == "ok"


@pytest.mark.parametrize("program", PROGRAMS)
def test_criu_restores_each_dump_of_memory_by_us(program: str, tmp_path: Path) -> None:
    with started(program, tmp_path / "victim") as target:
        for images in reversed(chain_by("stillframe", target, tmp_path)):
            target.end()
            criu("restore", images, "--restore-detached")
            assert target.ask("check") == "ok"
