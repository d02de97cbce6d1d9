# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program has besides memory, on a kernel that tells less of it and takes less back than those of today."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from memory_chains import started
from trackers import stillframe
from victim import ROOT, Victim

PROGRAMS = ("channels", "sockets", "signals", "identity")
"""Of tests/programs; built on the host and laid into the machine."""
_MUCH = 1 << 16
_PATIENCE = 60


def succeed(verb: str, images: Path, *options: str) -> None:
    done = stillframe(verb, "--images-dir", str(images), *options)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_holds_is_as_it_was(program: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with started(program, tmp_path / "victim") as target:
        succeed("dump", images, "--tree", str(target.pid), "--leave-running")
        assert target.ask("check") == "ok"
        target.end()
        succeed("restore", images, "--restore-detached")
        assert target.ask("check") == "ok"


def received(folder: Path) -> list[int]:
    """Return how much both ends have received."""
    paths = [folder / f"received-{name}" for name in ("server", "client")]
    return [int.from_bytes(path.read_bytes(), "big") if path.exists() else 0 for path in paths]


def await_more(folder: Path) -> None:
    """Return when both ends have received much more, and none found a fault."""
    before, end = received(folder), time.monotonic() + _PATIENCE
    while not all(now > earlier + _MUCH for now, earlier in zip(received(folder), before)):
        assert not (folder / "failed").exists(), (folder / "failed").read_text()
        assert time.monotonic() < end, "nothing is received"
        time.sleep(0.05)


def test_tcp_connections_go_on(tmp_path: Path) -> None:
    images, folder = tmp_path / "images", tmp_path / "streams"
    images.mkdir()
    folder.mkdir()
    command = [sys.executable, str(ROOT / "tests/programs/streams.py"), "pair", str(folder), "127.0.0.1"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, cwd="/", **quiet)
    target = Victim(process.pid, folder / "unused")
    try:
        await_more(folder)
        succeed("dump", images, "--tree", str(process.pid), "--tcp-established")
        assert process.wait() == -signal.SIGKILL
        succeed("restore", images, "--tcp-established", "--restore-detached")
        await_more(folder)
    finally:
        children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
        for pid in map(int, children.read_text().split() if children.exists() else []):
            Victim(pid, folder / "unused").end()
        target.end()


SANDBOX = "mount -t proc proc /proc && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec sleep infinity"


def mounted(pid: int) -> list[str]:
    """Return what PID has mounted at /proc and below, without the numbers of mounts and devices."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return [" ".join(line.split()[3:6]) for line in lines if line.split()[4].startswith("/proc")]


def test_the_mounts_of_a_sandbox_are_made_again(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", SANDBOX]
    process = subprocess.Popen(command, start_new_session=True, cwd="/", **quiet)
    target = Victim(process.pid, tmp_path / "unused")
    try:
        end = time.monotonic() + _PATIENCE
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert time.monotonic() < end, "the sandbox is not made"
            time.sleep(0.05)
        before = mounted(process.pid)
        assert len(before) >= 3 and before[-1].startswith("/sys /proc/sys ro")
        succeed("dump", images, "--tree", str(process.pid))
        assert process.wait() == -signal.SIGKILL
        succeed("restore", images, "--restore-detached")
        assert mounted(process.pid) == before
    finally:
        target.end()
