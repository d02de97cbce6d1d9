# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Internet sockets with options, groups and keys that not every program has, and MPTCP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _engine.options import DumpOptions
from _engine.resources.files.dump import FilesDump
from _engine.resources.files.multicast import read_memberships
from holder import Restored, carried, holding

LOOPBACK = socket.if_nametoindex("lo")
IPPROTO_MPTCP = 262


@contextmanager
def sock(found: Restored, name: str) -> Iterator[socket.socket]:
    one = socket.socket(fileno=found[name])
    try:
        yield one
    finally:
        one.detach()


def obstacles(kind: str, directory: Path) -> dict[str, str]:
    with holding(kind, directory / "state") as holder:
        files = FilesDump(DumpOptions(tree=holder.pid, images_dir="", tcp_established=True))
        names = {str(number): name for name, number in holder.fds.items()}
        found = {names[obstacle.where.split()[1]]: obstacle.why for obstacle in files.preflight([holder.pid])}
        return found


def has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


def test_rare_options_are_as_they_were(tmp_path: Path) -> None:
    with carried("inet_more", tmp_path) as found, sock(found, "udp") as udp, sock(found, "six") as six, sock(found, "tcp") as tcp:
        assert udp.getsockopt(socket.SOL_SOCKET, 35) == 1 and udp.getsockopt(socket.SOL_SOCKET, 29) == 0
        assert udp.getsockopt(socket.IPPROTO_IP, 10) == 3 and udp.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 7
        assert udp.getsockopt(socket.IPPROTO_UDP, 104) == 1
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 0x20
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF) == LOOPBACK
        assert tcp.getsockopt(socket.IPPROTO_IP, 21) == 255


def test_groups_are_joined_again_with_their_sources(tmp_path: Path) -> None:
    with carried("inet_more", tmp_path) as found, sock(found, "udp") as udp, sock(found, "six") as six:
        groups = {socket.inet_ntoa(one.group): (one.mode, list(one.sources)) for one in read_memberships(udp)}
        assert groups == {"239.1.2.3": (0, []), "239.1.2.4": (1, [socket.inet_aton("127.0.0.9")])}
        assert [(socket.inet_ntop(socket.AF_INET6, one.group), one.interface) for one in read_memberships(six)] == [("ff02::1234", "lo")]
        udp.bind(("239.1.2.3", 0))
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            multicast = struct.pack("=4s4si", bytes(4), bytes(4), LOOPBACK)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, multicast)
            sender.sendto(b"to all", udp.getsockname())
        udp.settimeout(10)
        assert udp.recv(100) == b"to all"


def test_keys_of_tcp_md5_are_refused(tmp_path: Path) -> None:
    found = obstacles("tcp_md5", tmp_path)
    assert found.pop("listening") and all("TCP-MD5" in why for why in found.values())


@pytest.mark.skipif(not has_mptcp(), reason="this kernel has no MPTCP")
def test_mptcp_listens_again(tmp_path: Path) -> None:
    with carried("mptcp_listening", tmp_path) as found, sock(found, "listening") as listening, sock(found, "fresh") as fresh:
        assert listening.proto == fresh.proto == IPPROTO_MPTCP
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        with socket.create_connection(listening.getsockname()) as client:
            server, _address = listening.accept()
            client.send(b"hello")
            assert server.recv(100) == b"hello"
            server.close()


@pytest.mark.skipif(not has_mptcp(), reason="this kernel has no MPTCP")
def test_connections_of_mptcp_are_refused(tmp_path: Path) -> None:
    found = obstacles("mptcp", tmp_path)
    assert set(found) == {"connected", "accepted"} and all("MPTCP" in why for why in found.values())
