# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""drill: a dump is restored and checked where nobody notices, beside the original, and nothing of it is left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from victim import PATIENCE, PROGRAMS, Lab, engine, until

ASK = "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(99).decode())"


class Bookkeeper:
    """The program, and what the test knows of it."""

    def __init__(self, lab: Lab) -> None:
        self.book, told = lab.folder / "book", lab.folder / "port"
        self.book.write_bytes(b"00000000")
        self.pid = lab.spawn([sys.executable, str(PROGRAMS / "bookkeeper.py"), str(self.book), str(told)]).pid
        until(told.exists, "the program does not listen")
        self.port = int(told.read_text())

    def ask(self) -> str:
        """Return its answer."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            return connection.makefile().read()


def drill(path: Path, *command: str, timeout: int = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run the command line; the check has a word of its own as its last argument."""
    words = engine("drill", "--images-dir", path, "--timeout", timeout, "--", *command)
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)


def running(word: str) -> list[int]:
    """Return the processes of the machine that have WORD among their arguments."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += [int(pid)] if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") else []
        except OSError:
            continue
    return found


def test_beside_the_original(lab: Lab) -> None:
    keeper = Bookkeeper(lab)
    assert keeper.ask() == f"{keeper.pid} 1 00000001"
    path = lab.dump(keeper.pid, "1", "--leave-running")
    assert keeper.ask() == f"{keeper.pid} 2 00000002"
    done = drill(path, sys.executable, "-c", ASK, str(keeper.port))
    assert (done.returncode, done.stdout) == (0, f"{keeper.pid} 2 00000002\n"), done.stderr
    assert drill(path, "/bin/sh", "-c", f"echo changed > {keeper.book}; echo $STILLFRAME_PID").stdout == f"{keeper.pid}\n"
    assert keeper.ask() == f"{keeper.pid} 3 00000003"
    assert keeper.book.read_bytes() == b"00000003"
    assert not list(path.glob("stats-restore"))


def test_faults_are_told(lab: Lab) -> None:
    keeper = Bookkeeper(lab)
    path = lab.dump(keeper.pid, "1", "--leave-running")
    done = drill(path, "/bin/sh", "-c", "echo why >&2; exit 3")
    assert done.returncode == 1 and "failed with 3" in done.stderr and "why" in done.stderr
    done = drill(path, "/bin/sh", "-c", "kill -9 $STILLFRAME_PID; until grep -q ^State:.Z /proc/$STILLFRAME_PID/status; do :; done")
    assert done.returncode == 1 and "ended by itself" in done.stderr
    word = f"4000.{os.getpid()}"
    done = drill(path, "sleep", word, timeout=1)
    assert done.returncode == 1 and "did not end in time" in done.stderr
    assert not running(word)
    keeper.book.rename(lab.folder / "elsewhere")
    done = drill(path, "true")
    assert done.returncode == 1 and f"{keeper.book} (fd 3): it cannot be found" in done.stderr
    assert keeper.ask() == f"{keeper.pid} 1 00000001"


def test_nothing_is_left_when_killed(lab: Lab) -> None:
    keeper = Bookkeeper(lab)
    path = lab.dump(keeper.pid, "1")
    lab.reap()
    word, script = f"5009.{os.getpid()}", f"exec sleep $((5000 + 9)).{os.getpid()}"
    mounts = Path("/proc/self/mountinfo").read_text()
    with subprocess.Popen(engine("drill", "--images-dir", path, "--", "/bin/sh", "-c", script), stdin=subprocess.DEVNULL) as process:
        until(lambda: bool(running(word)), "the check is not started")
        assert running(str(keeper.book))
        process.kill()
        process.wait(PATIENCE)
    until(lambda: not running(word) and not running(script) and not running(str(keeper.book)), "the drill outlives its engine")
    assert Path("/proc/self/mountinfo").read_text() == mounts
    lab.restore(path)
    assert keeper.ask() == f"{keeper.pid} 1 00000001"
