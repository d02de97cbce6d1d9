# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A server moves to another host with its address, and its client, on a third one, sees no more than a pause."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import moving
from victim import PATIENCE, PROGRAMS, Lab, Victim, engine, until

_ADDRESS, _CLIENT = "10.77.9.50", "10.77.9.1"
_MUCH = 1 << 17
"""Bytes that tell that the connection goes on."""
_STREAM = f"""
import socket, sys
sys.path.insert(0, {str(PROGRAMS)!r})
from pathlib import Path
from streams import stream
count = Path(sys.argv[1])
def received(came):
    count.with_suffix(".new").write_text(str(came))
    count.with_suffix(".new").rename(count)
    return True
stream(socket.create_connection((sys.argv[2], int(sys.argv[3]))), received)
"""

_SERVER = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
class Server(getattr(socketserver, sys.argv[1])):
    request_queue_size = 128
    allow_reuse_address = True
Server((sys.argv[2], 7979), Echo).serve_forever()
"""
_NEWCOMERS = """
import itertools, pathlib, socket, sys, threading
counts, began = pathlib.Path(sys.argv[1]), threading.Event()
def come(number):
    for count in itertools.count():
        text = f"{number} {count}\\n".encode()
        with socket.create_connection((sys.argv[2], 7979), timeout=30) as connection:
            connection.sendall(text)
            with connection.makefile("rb") as answer:
                if answer.readline() != text:
                    raise ValueError("another answer")
        (counts / f"{number}.new").write_text(str(count))
        (counts / f"{number}.new").rename(counts / str(number))
def fail(failure):
    (counts / "why").write_text(repr(failure))
    (counts / "why").rename(counts / "failed")
threading.excepthook = fail
for number in range(4):
    threading.Thread(target=come, args=(number,)).start()
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def network() -> Iterator[tuple[str, str, str]]:
    """Three network namespaces on one wire: the client's, the source's, the destination's. The last two have the same MAC address."""
    client, *hosts = names = [f"move{os.getpid()}{one}" for one in "cab"]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", client, "link", "add", "wire", "type", "bridge")
        ip("-n", client, "addr", "add", f"{_CLIENT}/24", "dev", "wire")
        ip("-n", client, "link", "set", "wire", "up")
        for number, host in enumerate(hosts):
            subprocess.run(["ip", "netns", "exec", host, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"], check=False)
            ends = ("eth0", "address", "02:00:00:00:09:50", "type", "veth", "peer", "name", f"port{number}", "netns", client)
            ip("-n", host, "link", "add", *ends)
            ip("-n", host, "addr", "add", f"10.77.9.{10 + number}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", client, "link", "set", f"port{number}", "master", "wire", "up")
        yield client, hosts[0], hosts[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.mark.skipif(not shutil.which("ip"), reason="no iproute2 here")
def test_a_server_moves_with_its_client_connected(lab: Lab) -> None:
    with network() as (client, source, destination):
        ip("-n", source, "addr", "add", f"{_ADDRESS}/24", "dev", "eth0")
        inside = {name: ["nsenter", f"--net=/run/netns/{name}"] for name in (client, source, destination)}
        server = lab.spawn([*inside[source], sys.executable, str(PROGRAMS / "streams.py"), "server", str(lab.folder), _ADDRESS])
        until((lab.folder / "port").exists, "the server does not start")
        count, port = lab.folder / "count", (lab.folder / "port").read_text()
        with open(lab.folder / "client.log", "wb") as log:
            peer = lab.spawn([*inside[client], sys.executable, "-c", _STREAM, str(count), _ADDRESS, port], stderr=log)

        def goes_on() -> None:
            before = int(count.read_text()) if count.exists() else 0
            until(lambda: peer.poll() is not None or (count.exists() and int(count.read_text()) > before + _MUCH), "nothing comes")
            assert peer.poll() is None, (lab.folder / "client.log").read_text()

        goes_on()
        options = {"tcp_established": True}
        take = f"ip addr add {_ADDRESS}/24 dev eth0"
        there = moving.host(lab, prefix=inside[destination], options=options, hooks={"pre-restore": take})
        try:
            give = f"ip addr del {_ADDRESS}/24 dev eth0"
            moved = moving.move(Victim(lab.folder, server.pid), there, inside[source], options=options, hooks={"post-freeze": give})
            assert "stop" in moved and moved["lock_table"], moved
            goes_on()
            goes_on()
            assert not (lab.folder / "failed").exists()
            assert server.pid in there.processes()
        finally:
            there.end()


@pytest.mark.skipif(not shutil.which("ip"), reason="no iproute2 here")
@pytest.mark.parametrize("kind", ["ThreadingTCPServer", "ForkingTCPServer"])
def test_a_server_moves_whose_clients_come_anew_all_the_time(lab: Lab, kind: str) -> None:
    with network() as (client, source, destination):
        ip("-n", source, "addr", "add", f"{_ADDRESS}/24", "dev", "eth0")
        inside = {name: ["nsenter", f"--net=/run/netns/{name}"] for name in (client, source, destination)}
        with open(lab.folder / "server.log", "wb") as log:
            server = lab.spawn([*inside[source], sys.executable, "-c", _SERVER, kind, _ADDRESS], stdout=log, stderr=log)
        until(lambda: listens(server.pid), "the server does not start")
        counts = lab.folder / "counts"
        counts.mkdir()
        lab.spawn([*inside[client], sys.executable, "-c", _NEWCOMERS, str(counts), _ADDRESS])

        def all_go_on() -> None:
            def served() -> list[int]:
                return [int((counts / str(number)).read_text()) if (counts / str(number)).exists() else 0 for number in range(4)]

            before, failed = served(), counts / "failed"
            until(lambda: failed.exists() or all(now > then + 20 for now, then in zip(served(), before)), "somebody is not served")
            assert not failed.exists(), failed.read_text() + (lab.folder / "server.log").read_text()

        all_go_on()
        dump = engine("dump", "--tree", server.pid, "--images-dir", lab.images("1"), "--leave-running", "--tcp-established")
        subprocess.run([*inside[source], *dump], check=True, timeout=PATIENCE)
        all_go_on()
        options = {"tcp_established": True}
        show = f"bash -c 'echo > /dev/udp/{_CLIENT}/9'"  # that the address is here now
        take, give = f"ip addr add {_ADDRESS}/24 dev eth0 && {show}", f"ip addr del {_ADDRESS}/24 dev eth0"
        there = moving.host(lab, prefix=inside[destination], options=options, hooks={"pre-restore": take})
        try:
            moved = moving.move(Victim(lab.folder, server.pid), there, inside[source], options=options, hooks={"post-freeze": give})
            assert "stop" in moved, moved
            all_go_on()
            assert server.pid in there.processes()
        finally:
            there.end()


def listens(pid: int) -> bool:
    """Tell whether PID listens on a port."""
    return any(line.split()[3] == "0A" for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
