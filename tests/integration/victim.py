# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Self-checking victims (tests/programs), and the engine's command line run on them."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ROOT / "tests" / "programs"
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
PATIENCE = 60
"""Seconds until a victim that does not answer, or an engine that does not end, has failed."""
LOG = re.compile(r"(Error|Warn) +\([a-z_]+\.py:\d+\): (.*)\n")
_READ = "0"  # the number of read(2)
SYS_PAUSE = 34  # arch/x86/entry/syscalls/syscall_64.tbl


@dataclass(frozen=True)
class Victim:
    """A running program that answers questions through the named pipes in its directory."""

    directory: Path
    pid: int

    def ask(self, question: str = "check") -> str:
        """Return the answer to QUESTION: "ok", or what is wrong."""
        asks, answers = (os.open(self.directory / name, os.O_RDWR | os.O_CLOEXEC) for name in ("ask", "answer"))
        try:
            os.write(asks, f"{question}\n".encode())
            return read_line(answers, self.pid)
        finally:
            os.close(asks)
            os.close(answers)

    def await_rest(self, spinning: bool = False) -> None:
        """Return when the program waits for the next question, and unless it is SPINNING all its threads wait for something."""
        until(lambda: Path(f"/proc/{self.pid}/syscall").read_text().split()[0] == _READ, f"process {self.pid} asks for nothing")
        for tid in () if spinning else os.listdir(f"/proc/{self.pid}/task"):
            until(lambda tid=int(tid): state(self.pid, tid) != "R", f"thread {tid} runs")  # type: ignore[misc]


def until(condition: Callable[[], bool], what: str) -> None:
    """Return when CONDITION holds; fail when it does not come to that.

    For what no event tells: that a task has gone to sleep, or that its parent has reaped it.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        os.sched_yield()


def state(pid: int, tid: int = 0) -> str:
    """Return the state of PID, or of its thread TID, as /proc tells it; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/task/{tid or pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def pauses(pid: int, tid: int = 0) -> bool:
    """Tell whether PID, or its thread TID, is in pause(2), where its registers do not change any more."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/task/{tid or pid}/syscall").read_text().startswith(f"{SYS_PAUSE} ")
    return False


def read_line(fd: int, pid: int) -> str:
    """Return a line from FD; fail when process PID ends before it comes."""
    pidfd = os.pidfd_open(pid)
    line = b""
    try:
        while not line.endswith(b"\n"):
            ready, _writable, _failed = select.select([fd, pidfd], [], [], PATIENCE)
            assert ready, f"process {pid} does not answer: {Path(f'/proc/{pid}/status').read_text()}"
            assert fd in ready, f"process {pid} has ended before it answered"
            line += os.read(fd, 4096)
    finally:
        os.close(pidfd)
    return line.decode().rstrip("\n")


@dataclass
class Lab:
    """Starts victims and runs the engine on them; ends all that it, or a restore, has started."""

    folder: Path
    programs: dict[str, Path]
    before: set[int] = field(default_factory=set)

    def start(self, program: str, *arguments: str, name: str = "victim", rseq: bool = False) -> Victim:
        """Start a program of tests/programs and wait until it is ready.

        Without RSEQ the kernel does not write the number of the CPU into its memory.
        """
        directory = self.folder / name
        directory.mkdir()
        for pipe in ("ask", "answer"):
            os.mkfifo(directory / pipe)
        answers = os.open(directory / "answer", os.O_RDWR | os.O_CLOEXEC)
        with open(directory / "errors", "wb") as errors:
            environment = {"GLIBC_TUNABLES": f"glibc.pthread.rseq={rseq:d}"}
            process = self.spawn([str(self.program(program)), str(directory), *arguments], stderr=errors, env=environment)
        try:
            assert read_line(answers, process.pid) == "ready", (directory / "errors").read_text()
        finally:
            os.close(answers)
        return Victim(directory, process.pid)

    def program(self, name: str) -> Path:
        """Return the compiled program NAME."""
        if name not in self.programs:
            path = self.programs[""] / name
            source = PROGRAMS / f"{name}.c"
            subprocess.run(["gcc", "-O1", "-g", "-pthread", "-o", str(path), str(source)], check=True, stdin=subprocess.DEVNULL)
            self.programs[name] = path
        return self.programs[name]

    def spawn(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        """Start COMMAND in a session of its own, with no descriptor of ours."""
        streams: dict[str, object] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, **{**streams, "start_new_session": True, **options})  # type: ignore[call-overload,no-any-return]

    def engine(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run bin/stillframe and return how it ended."""
        return subprocess.run(engine(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)

    def run(self, *words: object) -> str:
        """Run bin/stillframe, which must succeed; return what it said."""
        done = self.engine(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stderr

    def images(self, name: str) -> Path:
        """Return a new images directory."""
        path = self.folder / "images" / name
        path.mkdir(parents=True)
        return path

    def dump(self, pid: int, name: str, *options: str) -> Path:
        """Dump the tree under PID, into a new directory."""
        path = self.images(name)
        self.run("dump", "--tree", pid, "--images-dir", path, *options)
        return path

    def restore(self, path: Path, *options: str) -> None:
        """Restore a dump; its root is our child then, for we are the reaper of orphans."""
        self.run("restore", "--images-dir", path, "--restore-detached", *options)

    def end(self, pid: int) -> None:
        """Kill the tree under PID, a child of ours, and return when all of it is gone."""
        from look import tree

        with suppress(FileNotFoundError):
            for one in tree(pid):
                with suppress(ProcessLookupError):  # it ended by itself
                    os.kill(one, signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        """Kill all children that came since the beginning, and their children, and wait for them.

        In the order in which they end: the first process of a PID namespace ends only when we have waited for all others in it.
        """
        while left := children() - self.before:
            ends = {}
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    ends[os.pidfd_open(pid)] = pid
            for pidfd in select.select(ends, [], [], PATIENCE)[0]:
                with suppress(ChildProcessError):
                    os.waitpid(ends[pidfd], 0)
            for pidfd in ends:
                os.close(pidfd)


def engine(*words: object) -> list[str]:
    """Return the command that runs bin/stillframe with WORDS."""
    return [sys.executable, str(ROOT / "bin" / "stillframe"), *map(str, words)]


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence that a run which failed has said."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    usage = re.fullmatch(r"stillframe: (.*)\n", done.stderr)  # before there is a log
    if usage:
        return str(usage[1])
    found = [text for level, text in LOG.findall(done.stderr) if level == "Error"]
    assert len(found) == 2 and LOG.sub("", done.stderr) == "" and found[1].endswith(" FAILED."), done.stderr
    assert ";" in found[0], f"no remedy: {found[0]}"
    return str(found[0])


def children() -> set[int]:
    """Return our children."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread of ours that has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def become_subreaper() -> None:
    """Let orphans below us become our children."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become the reaper")
