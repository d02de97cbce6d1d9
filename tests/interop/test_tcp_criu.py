# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections between CRIU and us, each restoring what the other dumped, and lifting its lock; the client is outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _engine.images.image import ImagesDir

sys.path.insert(0, str(Path(__file__).parent))
from kinds import CRIT  # noqa: E402
from victims import CRIU, ROOT, Victim, eventually, run, started  # noqa: E402

sys.path.insert(0, str(ROOT / "tests" / "programs"))
from connecting import crowded, is_connecting  # noqa: E402
from streams import Client  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]
CRIT_PROGRAM = shutil.which("crit") or os.environ.get("STILLFRAME_CRIT", "")
OPTIONS = ("--tcp-established", "--network-lock", "nftables")
IPTABLES = ("--tcp-established", "--network-lock", "iptables")
MUCH = 1 << 18
_OTHERWISE = ("id", "ns_id", "stillframe", "backlog")
"""What is not a connection's: as its backlog CRIU has what waits to be sent."""
_MOVING = ("timestamp", "snd_wl1", "snd_wnd", "rcv_wnd", "max_window", "rcv_wup")


class Streams(Victim):
    """tests/programs/streams.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command = (sys.executable, str(ROOT / "tests" / "programs" / "streams.py"), "server", str(folder), "127.0.0.1")

    def await_ready(self) -> None:
        eventually((self.folder / "port").exists, "the server does not start")


class Closing(Victim):
    """tests/programs/closing.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command = (sys.executable, str(ROOT / "tests" / "programs" / "closing.py"), str(folder), "common")

    def await_ready(self) -> None:
        eventually((self.folder / "ready").exists, "the program does not start")


class Connecting(Victim):
    """tests/programs/connecting.py, with PORT to connect to."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder)
        self.command = (sys.executable, str(ROOT / "tests" / "programs" / "connecting.py"), str(folder), str(port), "polls")

    def await_ready(self) -> None:
        own = self.folder / "own"
        eventually(lambda: own.exists() and own.read_text() != "" and is_connecting(int(own.read_text())), "it does not connect")


@pytest.mark.kind("TCP: being opened")
@pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu")])
def test_a_connection_that_is_being_opened_is_opened(dumper: str, restorer: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with crowded() as (server, _first), started(lambda folder: Connecting(folder, server.getsockname()[1]), tmp_path / "victim") as victim:
        run(dumper, "dump", images, "--tree", str(victim.pid), *OPTIONS)
        victim.end()
        run(restorer, "restore", images, "--restore-detached", *OPTIONS)
        server.accept()[0].close()
        server.settimeout(30)
        client, _address = server.accept()
        client.settimeout(30)
        assert client.recv(100) == b"hello"
        client.send(b"welcome")
        answer = victim.folder / "answer"
        eventually(lambda: answer.exists() and answer.read_bytes() == b"welcome", "no answer comes")
        client.close()


@pytest.mark.kind("TCP: established", "TCP: listening")
@pytest.mark.parametrize(
    ("dumper", "restorer", "options"),
    [("criu", "stillframe", OPTIONS), ("criu", "stillframe", IPTABLES), ("stillframe", "criu", OPTIONS)],
)
def test_one_restores_what_the_other_dumped(dumper: str, restorer: str, options: tuple[str, ...], tmp_path: Path) -> None:
    if options is IPTABLES and not shutil.which("iptables"):
        pytest.skip("CRIU needs iptables for this")
    images = tmp_path / "images"
    images.mkdir()
    with started(Streams, tmp_path / "victim") as victim, Client("127.0.0.1", int((victim.folder / "port").read_text())) as client:
        eventually(lambda: client.count > MUCH, "the client receives nothing")
        run(dumper, "dump", images, "--tree", str(victim.pid), *options)
        victim.end()
        before = client.count
        run(restorer, "restore", images, "--restore-detached", *options)
        eventually(lambda: client.count > before + MUCH or bool(client.error), "the client receives nothing after the restore")
        assert not client.error and not (victim.folder / "failed").exists()


@pytest.mark.kind("TCP: closing, closed")
@pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu")])
def test_closing_connections_go_both_ways(dumper: str, restorer: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with started(Closing, tmp_path / "victim") as victim:
        run(dumper, "dump", images, "--tree", str(victim.pid), *OPTIONS)
        victim.end()
        run(restorer, "restore", images, "--restore-detached", *OPTIONS)
        os.kill(victim.pid, signal.SIGUSR1)
        eventually((victim.folder / "result").exists, "the program does not answer")
        assert (victim.folder / "result").read_text() == "ok"


@pytest.mark.kind("TCP: established", "TCP: closing, closed")
@pytest.mark.direction(CRIT)
def test_crit_shows_our_connections(tmp_path: Path) -> None:
    if not CRIT_PROGRAM:
        pytest.skip("no crit: set STILLFRAME_CRIT")
    images = tmp_path / "images"
    images.mkdir()
    with started(Closing, tmp_path / "victim") as victim:
        run("stillframe", "dump", images, "--tree", str(victim.pid), "--leave-running", *OPTIONS)
    found = entries(images)
    shown = [
        json.loads(subprocess.run([CRIT_PROGRAM, "show", str(path)], capture_output=True, check=True).stdout)["entries"]
        for path in images.glob("tcp-stream-*.img")
    ]
    told = sorted((one["inq_seq"], one["inq_len"], one["outq_len"]) for (one,) in shown)
    assert told == sorted((stream["inq_seq"], stream["inq_len"], stream["outq_len"]) for _socket, stream, _data in found.values())


def entries(images: Path) -> dict[tuple[int, int], tuple[dict[str, str], Any, bytes]]:
    """Return the connections in IMAGES by their ports: socket, stream and data."""
    directory = ImagesDir(str(images))
    found = {}
    for file in directory.read("files"):
        isk = file.isk  # type: ignore[attr-defined]
        if isk.dst_port:
            stream: Any = directory.entries(f"tcp-stream-{isk.ino:x}")[0]
            socket_fields = {field.name: str(value) for field, value in isk.ListFields() if field.name not in _OTHERWISE}
            stream_fields = {field.name: value for field, value in stream.message.ListFields() if field.name not in _MOVING}
            found[isk.src_port, isk.dst_port] = (socket_fields, stream_fields, stream.payload)
    return found


def test_both_dumps_say_the_same(tmp_path: Path) -> None:
    with started(Closing, tmp_path / "victim") as victim:
        for program in ("stillframe", "criu"):
            (tmp_path / program).mkdir()
            run(program, "dump", tmp_path / program, "--tree", str(victim.pid), "--leave-running", *OPTIONS)
    ours, theirs = entries(tmp_path / "stillframe"), entries(tmp_path / "criu")
    assert len(ours) == 24 and ours == theirs
