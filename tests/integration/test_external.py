# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What others hold or give: the reader of a pipe, the other end of a socket, a file that no path leads to."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from victim import PATIENCE, Lab, engine, sentence, until

TALKER = """
import os, signal, sys
pipe, sock, file = map(int, sys.argv[1:])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
open("ready", "w").close()
while True:
    signal.sigwait({signal.SIGUSR1})
    os.write(pipe, b"to the pipe")
    os.write(sock, os.pread(file, 100, 0))
"""


@dataclass(frozen=True)
class Talker:
    """A process that says, at each SIGUSR1, one thing to a pipe and what is in a file to a socket."""

    pid: int
    pipe: str
    sock: str
    file: str
    """Its resources, as --inherit-fd names them."""
    fds: tuple[int, ...]

    @property
    def external(self) -> list[str]:
        """The options of a dump that leaves them to others."""
        return ["--external", self.sock.replace("socket:", "unix"), "--external", self.file]


@pytest.fixture
def talker(lab: Lab) -> Iterator[Talker]:
    """A talker, to us."""
    yield from start(lab)


def start(lab: Lab) -> Iterator[Talker]:
    """Start a talker."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    (lab.folder / "file").write_text("of the file")
    file = os.open(lab.folder / "file", os.O_RDONLY)
    (lab.folder / "file").unlink()
    (lab.folder / "file").write_text("of another file")
    fds = (writer, theirs.fileno(), file)
    process = lab.spawn([sys.executable, "-c", TALKER, *map(str, fds)], pass_fds=fds, cwd=lab.folder)
    until((lab.folder / "ready").exists, "the talker does not start")
    [mount] = re.findall(r"^mnt_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{file}").read_text(), re.MULTILINE)
    names = (os.readlink(f"/proc/self/fd/{writer}"), os.readlink(f"/proc/self/fd/{theirs.fileno()}"))
    try:
        yield Talker(process.pid, *names, f"file[{int(mount):x}:{os.fstat(file).st_ino:x}]", fds)
    finally:
        for fd in (reader, writer, file):
            os.close(fd)
        ours.close()
        theirs.close()


def talk(talker: Talker, restore: Sequence[str], file: Path) -> None:
    """Restore TALKER by a command, with a new pipe, socket and FILE, and hear what it says to them."""
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs, open(file, "rb") as content:
        fds = (writer, theirs.fileno(), content.fileno())
        given = [f"--inherit-fd=fd[{fd}]:{name}" for fd, name in zip(fds, (talker.pipe, talker.sock, talker.file))]
        done = subprocess.run([*restore, *given], pass_fds=fds, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done.stderr
        os.close(writer)
        theirs.close()
        os.kill(talker.pid, signal.SIGUSR1)
        ours.settimeout(PATIENCE)
        assert ours.recv(100) == file.read_bytes()
        assert select.select([reader], [], [], PATIENCE)[0] and os.read(reader, 100) == b"to the pipe"
        os.close(reader)


def test_what_others_hold_is_given_again(lab: Lab, talker: Talker) -> None:
    images = lab.images("1")
    refused = sentence(lab.engine("dump", "--tree", talker.pid, "--images-dir", images))
    assert talker.sock in refused and "--external unix[" in refused
    lab.run("dump", "--tree", talker.pid, "--images-dir", images, *talker.external)
    lab.reap()
    left = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert talker.file in left and "--inherit-fd" in left
    wrong = ["--inherit-fd=fd[0]:pipe:[1]", f"--inherit-fd=fd[99]:{talker.file}"]
    absent = lab.engine("restore", "--images-dir", images, "--restore-detached", *wrong)
    assert "pipe:[1]: the images have no such file" in absent.stderr and "there is no descriptor 99" in absent.stderr
    with open(os.devnull, "rb") as null:
        only_file = [f"--inherit-fd=fd[{null.fileno()}]:{talker.file}"]
        subprocess.run([*engine("restore", "--images-dir", images, "--restore-detached"), *only_file], pass_fds=[null.fileno()], check=True)
    with open(f"/proc/{talker.pid}/net/unix", encoding="ascii") as table:
        ends = {line.split()[6] for line in table}
    cut = os.readlink(f"/proc/{talker.pid}/fd/{talker.fds[1]}")[len("socket:[") : -1]
    assert cut in ends and os.readlink(f"/proc/{talker.pid}/fd/{talker.fds[2]}") == os.devnull
    lab.end(talker.pid)
    (lab.folder / "new").write_text("of a new file")
    talk(talker, engine("restore", "--images-dir", images, "--restore-detached"), lab.folder / "new")


WRITER = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
open("ready", "w").close()
while True:
    signal.sigwait({signal.SIGUSR1})
    os.write(int(sys.argv[1]), b"to the terminal")
"""


@contextmanager
def writer(lab: Lab) -> Iterator[tuple[int, str]]:
    """Start a process that writes to a terminal of ours at each SIGUSR1; provide its PID and the terminal's name."""
    master, slave = os.openpty()
    try:
        process = lab.spawn([sys.executable, "-c", WRITER, str(slave)], pass_fds=(slave,), cwd=lab.folder)
        until((lab.folder / "ready").exists, "the writer does not start")
        status = os.fstat(slave)
        yield process.pid, f"tty[{status.st_rdev:x}:{status.st_dev:x}]"
    finally:
        os.close(master)
        os.close(slave)


def give_terminal(pid: int, terminal: str, restore: Sequence[str]) -> None:
    """Restore process PID by a command, with another TERMINAL, and see that it writes to that."""
    master, slave = os.openpty()
    try:
        words = [*restore, f"--inherit-fd=fd[{slave}]:{terminal}"]
        done = subprocess.run(words, pass_fds=(slave,), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done.stderr
        os.kill(pid, signal.SIGUSR1)
        assert select.select([master], [], [], PATIENCE)[0] and os.read(master, 100) == b"to the terminal"
    finally:
        os.close(master)
        os.close(slave)


def test_a_terminal_of_others_is_given_again(lab: Lab) -> None:
    images = lab.images("1")
    with writer(lab) as (pid, terminal):
        assert lab.engine("dump", "--tree", pid, "--images-dir", images).returncode
        lab.run("dump", "--tree", pid, "--images-dir", images, "--external", terminal)
    left = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert terminal in left and "--inherit-fd" in left
    give_terminal(pid, terminal, engine("restore", "--images-dir", images, "--restore-detached"))
