# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump that sends its memory to a page server: what is restored there, and what either end makes of trouble."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from _engine.images.manifest import RECEIVED_NAME
from _engine.images.pagemap import PAGE_SIZE
from _engine.transfer import page_protocol as wire
from _engine.transfer import tls
from _engine.transfer.page_protocol import Request

from victim import PATIENCE, Lab, engine, sentence

PAGE = bytes(range(256)) * (PAGE_SIZE // 256)


@dataclass
class Server:
    """A page server, as a process."""

    process: subprocess.Popen[str]
    images: Path
    port: int

    def client(self, *more: object) -> tuple[object, ...]:
        """Return the options of a dump to it."""
        return ("--page-server", "--port", self.port, *more)

    def say(self, *parts: bytes) -> bytes:
        """Connect, send PARTS, hang up, and return what came back."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(4096), b""))
            except OSError:  # it has hung up already
                return b""

    def end(self) -> str:
        """Return its log when it has ended well."""
        _output, log = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, log
        return log


@contextmanager
def serving(images: Path, *options: object) -> Iterator[Server]:
    command = engine("page-server", "--images-dir", images, "-v4", *options)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Listening on 127.0.0.1 port "), process.communicate()
        yield Server(process, images, int(line.split()[-1]))
    finally:
        process.kill()
        process.communicate()


def bring(source: Path, target: Path) -> None:
    """Copy the images that were made at the source to where the page server has put the pages."""
    for path in source.iterdir():
        if not path.is_symlink():
            shutil.copy(path, target)


def add(start: int, pages: int, in_parent: bool = False, image: str = "pagemap-7") -> bytes:
    return wire.encode(Request(wire.PS_IOV_ADD_F, image, start, pages, in_parent))


OPEN = wire.encode(Request(wire.PS_IOV_OPEN2, "pagemap-7"))
CLOSE = wire.encode(Request(wire.PS_IOV_CLOSE))


def test_a_chain_is_received_freed_and_restored(lab: Lab) -> None:
    victim = lab.start("writer")
    sent = lab.images("sent")
    for number, verb in enumerate(("pre-dump", "dump"), start=1):
        there, here = lab.images(f"there/{number}"), lab.images(f"sent/{number}")
        parent = ("--prev-images-dir", "../1") if number == 2 else ()
        with serving(there, "--auto-dedup", *parent) as server:
            lab.run(verb, "--tree", victim.pid, "--images-dir", here, *server.client(), *parent)
            log = server.end()
        assert "Received dump" in log and (number == 1 or "freed 0 bytes" not in log)
        assert not list(here.glob("pagemap-*")) and not list(here.glob("pages-*"))
    lab.reap()
    assert "were sent to 127.0.0.1 port" in sentence(lab.engine("restore", "--images-dir", sent / "2", "--restore-detached"))
    bring(sent / "1", there)
    assert "copy those of one dump together" in sentence(lab.engine("restore", "--images-dir", there, "--restore-detached"))
    bring(sent / "2", there)
    with open(there / "pages-65537.img", "r+b") as pages:
        pages.seek(PAGE_SIZE + 1)
        byte = pages.read(1)
        pages.seek(PAGE_SIZE + 1)
        pages.write(bytes([byte[0] ^ 1]))
        pages.flush()
        assert "its checksum does not match" in sentence(lab.engine("restore", "--images-dir", there, "--restore-detached"))
        pages.seek(PAGE_SIZE + 1)
        pages.write(byte)
    lab.restore(there)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_a_parent_that_is_not_there_is_not_counted_on(lab: Lab) -> None:
    """The page server has no parent, or another one: everything is sent."""
    victim = lab.start("writer")
    with serving(lab.images("there/0")) as server:
        same = wire.encode(Request(wire.PS_IOV_OPEN2, f"pagemap-{victim.pid}", dump_id=str(uuid.uuid4())))
        server.say(same, add(0x100000, 1, image=f"pagemap-{victim.pid}") + PAGE, CLOSE)
        server.end()
    with serving(lab.images("there/1")) as server:
        lab.run("pre-dump", "--tree", victim.pid, "--images-dir", lab.images("sent/1"), *server.client())
    there, here = lab.images("there/2"), lab.images("sent/2")
    with serving(there, "--prev-images-dir", "../0") as server:
        options = (*server.client(), "--prev-images-dir", "../1", "--display-stats")
        said = lab.engine("dump", "--tree", victim.pid, "--images-dir", here, *options)
        assert said.returncode == 0, said.stderr
        assert "skipped from parent: 0 " in said.stdout
        server.end()
    lab.reap()
    bring(here, there)
    (there / "stillframe.json").unlink()  # it tells of a parent that is not this one
    lab.restore(there)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_shared_memory_is_sent_too(lab: Lab) -> None:
    victim = lab.start("shared_memory")
    there, here = lab.images("there"), lab.images("sent")
    with serving(there) as server:
        lab.run("dump", "--tree", victim.pid, "--images-dir", here, *server.client())
        server.end()
    lab.reap()
    bring(here, there)
    lab.restore(there)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_tls_takes_the_one_client_that_it_knows(lab: Lab) -> None:
    victim = lab.start("writer")
    made = {name: tls.make_certificate(str(lab.images(name))) for name in ("client", "server", "stranger")}

    def options(name: str, peer: tuple[object, ...]) -> tuple[object, ...]:
        return ("--tls", "--tls-cert", made[name].cert, "--tls-key", made[name].key, *peer)

    there, here = lab.images("there"), lab.images("sent")
    knows_server, knows_client = ("--tls-peer-fingerprint", made["server"].fingerprint), ("--tls-peer-cert", made["client"].cert)
    dump = ("dump", "--tree", victim.pid, "--images-dir", here, "--leave-running")
    with serving(there, *options("server", knows_client)) as server:
        assert "page server" in sentence(lab.engine(*dump, *server.client(*options("stranger", knows_server))))
        assert "not the one that is pinned" in sentence(
            lab.engine(*dump, *server.client(*options("client", ("--tls-peer-fingerprint", made["stranger"].fingerprint))))
        )
        assert victim.ask() == "ok" and not list(here.iterdir()) and not list(there.iterdir())
        lab.run(*dump, *server.client(*options("client", knows_server)))
        log = server.end()
        assert log.count("Turned away 127.0.0.1") == 1 and log.count("Refused what 127.0.0.1") == 1, log
    lab.end(victim.pid)
    bring(here, there)
    lab.restore(there)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_strays_and_hostile_streams_change_nothing(lab: Lab) -> None:
    there = lab.images("there")
    far, near = add(0x200000, 1) + PAGE, add(0x100000, 1) + PAGE
    hostile = {
        "closed without a word": [],
        "is no command": [b"GET / HTTP/1.0\r\n\r\n" + bytes(64)],
        "ended before": [OPEN, near],
        "ended within": [OPEN, add(0x100000, 1 << 40), PAGE],
        "sent no pages": [CLOSE],
        "before it is opened": [near],
        "pages of pagemap-8 come before": [OPEN, add(0x100000, 1, image="pagemap-8") + PAGE],
        "come after others": [OPEN, far, near, CLOSE],
        "left to a parent": [OPEN, add(0x100000, 1, True), CLOSE],
        "comes twice": [OPEN, near, OPEN, CLOSE],
        "asks for pages": [wire._IOV.pack(wire.PS_IOV_GET, 1, 0x1000, 7 << 8 | 1)],
    }
    with serving(there) as server:
        silent = socket.create_connection(("127.0.0.1", server.port))
        for parts in hostile.values():
            server.say(*parts)
        assert server.say(OPEN, near, far, CLOSE) == b"\0" + bytes(4)
        silent.close()
        log = server.end()
    assert [reason for reason in hostile if reason not in log] == []
    assert sorted(path.name for path in there.iterdir()) == ["pagemap-7.img", "pages-65537.img", RECEIVED_NAME]
    assert (there / "pages-65537.img").read_bytes() == 2 * PAGE
    assert "already holds files of a dump" in sentence(lab.engine("page-server", "--images-dir", there))


def test_pages_that_the_parent_lacks_cannot_be_left_to_it(lab: Lab) -> None:
    first, second = lab.images("1"), lab.images("2")
    with serving(first) as server:
        assert server.say(OPEN, add(0x100000, 2) + 2 * PAGE, CLOSE) == b"\0" + bytes(4)
        server.end()
    with serving(second, "--prev-images-dir", "../1", "--auto-dedup") as server:
        server.say(OPEN, add(0x100000, 3, True), CLOSE)
        assert server.say(OPEN, add(0x100000, 1, True), add(0x101000, 1) + PAGE, CLOSE) == b"\1" + bytes(4)
        log = server.end()
    assert "lacks the page at 102000" in log and f"freed {PAGE_SIZE} bytes" in log
    assert os.readlink(second / "parent") == "../1"


@pytest.mark.parametrize("after", ["accept", "pages", "close", "status"])
def test_a_page_server_that_dies_leaves_the_tree_as_it_was(lab: Lab, after: str) -> None:
    victim = lab.start("writer")
    here = lab.images("sent")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _address = listener.accept()
            with connection, connection.makefile("rb") as stream:
                while after != "accept":
                    request = wire.decode(stream.read(wire.SIZE))
                    if request.command == wire.PS_IOV_OPEN2:
                        connection.sendall(b"\0")
                    elif request.command == wire.PS_IOV_CLOSE:
                        if after == "status":
                            connection.sendall(wire.STATUS.pack(-1))
                        return
                    else:
                        stream.read(request.pages * PAGE_SIZE)
                        if after == "pages":
                            return

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        said = sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", here, "--page-server", "--port", port))
        thread.join()
    assert "its log tells why" in said
    assert victim.ask() == "ok" and not list(here.iterdir())
    lab.end(victim.pid)


def test_what_has_no_room_is_thrown_away(lab: Lab) -> None:
    there = lab.images("there")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", there], check=True)
    try:
        with serving(there) as server:
            server.say(OPEN, add(0x100000, 64), 64 * PAGE, CLOSE)
            assert list(there.iterdir()) == []
            assert server.say(OPEN, add(0x100000, 1) + PAGE, CLOSE) == b"\0" + bytes(4)
            assert "No space left on device" in server.end()
    finally:
        subprocess.run(["umount", there], check=True)


def test_a_page_server_that_is_told_to_end_leaves_nothing(lab: Lab) -> None:
    there = lab.images("there")
    with serving(there) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(OPEN + add(0x100000, 2) + PAGE)
            assert connection.recv(1) == b"\0"
            assert list(there.iterdir())
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(PATIENCE)
        assert list(there.iterdir()) == []


def test_a_page_server_that_was_killed_is_no_hindrance_to_the_next(lab: Lab) -> None:
    there = lab.images("there")
    with serving(there) as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(OPEN + add(0x100000, 2) + PAGE)
        assert connection.recv(1) == b"\0"
        server.process.kill()
        server.process.wait(PATIENCE)
    assert [path.name for path in there.iterdir()] == ["pages-65537.img.partial"]
    with serving(there) as server:
        assert server.say(OPEN, add(0x100000, 1) + PAGE, CLOSE) == b"\0" + bytes(4)
        server.end()
    assert (there / "pages-65537.img").read_bytes() == PAGE


def test_sockets_that_are_there_already_are_used(lab: Lab) -> None:
    victim = lab.start("writer")
    there, here = lab.images("there"), lab.images("sent")
    ours, theirs = socket.socketpair()
    server = subprocess.Popen(engine("page-server", "--images-dir", there, "--ps-socket", theirs.fileno()), pass_fds=[theirs.fileno()])
    theirs.close()
    command = engine("dump", "--tree", victim.pid, "--images-dir", here, "--page-server", "--ps-socket", ours.fileno())
    done = subprocess.run(command, pass_fds=[ours.fileno()], capture_output=True, text=True, timeout=PATIENCE, check=False)
    ours.close()
    assert done.returncode == 0, done.stderr
    assert server.wait(PATIENCE) == 0
    lab.reap()
    bring(here, there)
    lab.restore(there)
    assert victim.ask() == "ok"
    lab.end(victim.pid)
