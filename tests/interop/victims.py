# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real trees to be dumped and restored, each able to tell what it holds, and the two programs that do it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from _engine.images.image import ImagesDir

ROOT = Path(__file__).parent.parent.parent
CRIU = os.environ.get("STILLFRAME_CRIU", "")
PROGRAMS = {"criu": [CRIU], "stillframe": [sys.executable, str(ROOT / "bin" / "stillframe")]}
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h

sys.path.insert(0, str(ROOT / "tests" / "programs"))
from menagerie import WORKING  # noqa: E402


def run(program: str, verb: str, images: Path, *options: str) -> None:
    """Run VERB of PROGRAM, criu or stillframe, on the directory IMAGES; its log is part of the failure."""
    log = images / f"{verb}-{program}.log"
    command = [*PROGRAMS[program], verb, "--images-dir", str(images), "--log-file", str(log), "-v4", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    lines = log.read_text(errors="replace").splitlines()[-25:] if done.returncode and log.exists() else []
    assert done.returncode == 0, "\n".join([f"{program} {verb}: status {done.returncode}", done.stdout, done.stderr, *lines])


def eventually(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait until HOLDS answers True; nothing tells when."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def tree_of(pid: int) -> list[int]:
    """Return PID and the processes below it, parents first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [below for child in (task / "children").read_text().split() for below in tree_of(int(child))]
    return found


class Victim:
    """A tree of processes that is ours to end, whoever restored it."""

    command: tuple[str, ...]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid = 0

    def start(self) -> None:
        """Start it in a session of its own, and return when it is ready."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        quiet = subprocess.DEVNULL
        self.pid = subprocess.Popen(self.command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd=self.folder).pid
        self.await_ready()

    def end(self) -> None:
        """Kill and reap what is left of it."""
        pids: list[int] = []
        with suppress(FileNotFoundError, ProcessLookupError):
            pids = tree_of(self.pid)
            os.kill(self.pid, signal.SIGSTOP)
            pids = tree_of(self.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids or [self.pid]:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        while True:  # the rest of a tree that a dump has ended are our children now
            try:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    return
            except ChildProcessError:
                return

    def await_ready(self) -> None:
        """Return when it can be asked."""

    def record(self) -> Any:
        """Return what it holds now."""

    def change(self) -> None:
        """Change some of what it holds."""

    def rewind(self, images: Path) -> None:
        """Bring the files that it has open to what they were when the dump in IMAGES was taken."""

    def check(self, record: Any) -> None:
        """Assert that it holds what RECORD says, and does its work."""


class Menagerie(Victim):
    """tests/programs/menagerie.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command = (sys.executable, str(ROOT / "tests" / "programs" / "menagerie.py"), str(folder))

    def ask(self, word: str) -> Any:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(30)
            line.connect(str(self.folder / "ask"))
            line.sendall(word.encode())
            return json.loads(b"".join(iter(lambda: line.recv(65536), b"")))

    def await_ready(self) -> None:
        eventually((self.folder / "pid").exists, "the menagerie did not start")

    def record(self) -> Any:
        return self.ask("tell")

    def change(self) -> None:
        self.ask("change")

    def check(self, record: Any) -> None:
        found = self.ask("tell")
        assert all(now >= then for now, then in zip(found.pop("counts"), record["counts"]))
        assert found == {key: value for key, value in record.items() if key != "counts"}
        assert found["shared"] == found["of the child"]
        assert self.ask("work") == WORKING
        self.change()
        changed = self.record()
        assert changed["generation"] == record["generation"] + 1
        assert changed["shared"] == changed["of the child"] != record["shared"]


class Redis(Victim):
    """A redis-server with keys."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        self.command = (
            *("redis-server", "--port", self.port, "--bind", "127.0.0.1", "--unixsocket", str(folder / "redis.sock")),
            *("--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--dir", str(folder)),
        )

    def ask(self, *words: str) -> str:
        done = subprocess.run(["redis-cli", "-p", self.port, *words], capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else f"{done.stdout}{done.stderr}"

    def await_ready(self) -> None:
        eventually(lambda: self.ask("PING") == "PONG", "redis-server did not start")
        assert self.ask("DEBUG", "POPULATE", "20000", "key", "500") == "OK"

    def record(self) -> Any:
        assert self.ask("CLIENT", "NO-EVICT", "on") == "OK"
        eventually(lambda: self.ask("CLIENT", "LIST").count("\n") == 0, "a client of redis-server stays")
        return {"digest": self.ask("DEBUG", "DIGEST"), "keys": self.ask("DBSIZE"), "counter": self.ask("GET", "counter")}

    def change(self) -> None:
        assert int(self.ask("INCR", "counter")) > 0
        assert self.ask("DEBUG", "POPULATE", "2000", f"more-{time.monotonic_ns()}", "300") == "OK"

    def check(self, record: Any) -> None:
        assert self.ask("PING") == "PONG"
        assert self.record() == record
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.folder / "redis.sock"))
            line.sendall(b"DBSIZE\r\n")
            assert line.recv(100).strip() == f":{record['keys']}".encode()
        self.change()
        assert self.record() != record


class Pipeline(Victim):
    """A shell pipeline that numbers lines: whatever is lost or comes twice breaks the sequence."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lines = folder / "lines"
        counting = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
        self.command = ("/bin/sh", "-c", f"({counting}) | cat | (while read line; do echo $line; done) >{self.lines}; true")

    def await_ready(self) -> None:
        eventually(lambda: self.lines.exists() and self.lines.stat().st_size > 100, "the pipeline did not start")

    def record(self) -> Any:
        return self._numbers()[-1]

    def change(self) -> None:
        known = self._numbers()[-1]
        eventually(lambda: self._numbers()[-1] > known + 5, "the pipeline stands still")

    def rewind(self, images: Path) -> None:
        files = ImagesDir(str(images)).read("files")
        sizes = [file.reg.size for file in files if file.HasField("reg") and file.reg.name == str(self.lines)]
        self.lines.write_text("".join(f"{number}\n" for number in range(1, 10000))[: max(sizes)])

    def check(self, record: Any) -> None:
        self.change()
        numbers = self._numbers()
        assert numbers == list(range(1, len(numbers) + 1)) and numbers[-1] > record

    def _numbers(self) -> list[int]:
        return [int(line) for line in self.lines.read_text().split("\n")[:-1]]


CARRIED: dict[type[Victim], tuple[str, ...]] = {
    Menagerie: (
        "children, orphans", "threads", "private memory", "shared anonymous", "copied pages of files", "eventfd", "timerfd", "epoll",
        "unix: pairs", "unix: named and listening",
    ),
    Redis: ("private memory", "threads", "epoll", "pipes", "unix: named and listening", "TCP: listening"),
    Pipeline: ("private memory", "children, orphans", "pipes", "regular files, directories", "descriptors shared over fork"),
}  # fmt: skip
"""What of tests/interop/kinds.py each victim holds."""
VICTIMS = [pytest.param(kind, marks=pytest.mark.kind(*kinds)) for kind, kinds in CARRIED.items()]


def missing(kind: type[Victim]) -> str:
    """Return why KIND cannot run here, empty when it can."""
    if kind is Redis and not (shutil.which("redis-server") and shutil.which("redis-cli")):
        return "redis-server and redis-cli are not installed"
    return ""


@contextmanager
def started(kind: Callable[[Path], Victim], folder: Path) -> Iterator[Victim]:
    """Run a victim of KIND for the length of the block."""
    folder.mkdir()
    victim = kind(folder)
    victim.start()
    try:
        yield victim
    finally:
        victim.end()


@contextmanager
def restored(program: str, victim: Victim, images: Path, *options: str) -> Iterator[None]:
    """Restore VICTIM from IMAGES by PROGRAM for the length of the block."""
    victim.rewind(images)
    run(program, "restore", images, "--restore-detached", *options)
    try:
        yield
    finally:
        victim.end()
