# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Page servers and dumps of CRIU and ours, each with the other, and what came of it restored by both."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from _engine.transfer import tls

CRIU = os.environ.get("STILLFRAME_CRIU", "")
PROGRAMS = {"criu": [CRIU], "ours": [sys.executable, str(Path(__file__).parent.parent.parent / "bin" / "stillframe")]}
VICTIM = """
import mmap, os, signal, sys
memory = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 1 << 20)
pattern = b"".join(number.to_bytes(8, "little") * 512 for number in range(1, 1025))
memory[:], shared[:] = pattern, pattern[: 1 << 20]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGSTOP)
while True:
    signal.sigwait({signal.SIGUSR1})
    answer = os.open(sys.argv[1], os.O_WRONLY)
    os.write(answer, b"whole" if memory[:] == pattern and shared[:] == pattern[: 1 << 20] else b"damaged")
    os.close(answer)
"""
PATIENCE = 60

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU that runs on this kernel is named in STILLFRAME_CRIU (tests/interop/get-criu)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="CRIU needs root"),
]


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[int]:
    """Yield the PID of a process that checks its memory when it is sent SIGUSR1."""
    os.mkfifo(tmp_path / "answer")
    command = [sys.executable, "-c", VICTIM, str(tmp_path / "answer")]
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
    os.waitpid(process.pid, os.WUNTRACED)
    os.kill(process.pid, signal.SIGCONT)
    yield process.pid
    process.kill()
    process.wait()


def run(name: str, *words: object) -> None:
    done = subprocess.run([*PROGRAMS[name], *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def serve(name: str, images: Path, *options: object) -> Tuple[subprocess.Popen[bytes], int]:
    """Start the page server NAME; return it, and its port, once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ready, says = os.pipe()
    words = ["page-server", "--images-dir", images, "--address", "127.0.0.1", "--port", port, "--status-fd", says, "-o", "server.log"]
    server = subprocess.Popen([*PROGRAMS[name], *map(str, [*words, *options])], pass_fds=[says], stdin=subprocess.DEVNULL)
    os.close(says)
    with open(ready, "rb") as status:
        assert status.read() == b"\0", (images / "server.log").read_text()
    return server, port


def restore_and_ask(name: str, images: Path, pid: int) -> str:
    """Restore the dump with the program NAME, let the process check its memory, end it, and return its answer."""
    run(name, "restore", "--images-dir", images, "--restore-detached", "-o", "restore.log")
    os.kill(pid, signal.SIGUSR1)
    answer = (images.parent / "answer").read_text()
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([pidfd], [], [], PATIENCE)
    os.close(pidfd)
    with suppress(ChildProcessError):  # it is ours only if orphans below us are
        os.waitpid(pid, 0)
    return answer


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("client", "server"), [("criu", "ours"), ("ours", "criu")])
def test_one_sends_to_the_other(client: str, server: str, with_tls: bool, victim: int, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    options: Dict[str, List[str]] = {"criu": [], "ours": []}
    if with_tls:
        if not shutil.which("openssl"):
            pytest.skip("no openssl here")
        made = {}
        for name in options:
            (tmp_path / name).mkdir()
            made[name] = tls.make_certificate(str(tmp_path / name), ("127.0.0.1",))
        for name, other in (("criu", "ours"), ("ours", "criu")):
            options[name] = ["--tls", "--tls-cert", made[name].cert, "--tls-key", made[name].key, "--tls-cacert", made[other].cert]
    process, port = serve(server, there, *options[server])
    words = ("--tree", victim, "--images-dir", here, "--page-server", "--address", "127.0.0.1", "--port", port, "-o", "dump.log")
    run(client, "dump", *words, *options[client])
    assert process.wait(PATIENCE) == 0, (there / "server.log").read_text()
    assert os.waitpid(victim, 0)[1] == signal.SIGKILL
    for path in here.iterdir():
        shutil.copy(path, there)
    assert [restore_and_ask(name, there, victim) for name in PROGRAMS] == ["whole", "whole"]
