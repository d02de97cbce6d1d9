# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets that a process listens on, from /proc/PID/net (proc_pid_net(5))."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from collections.abc import Container, Iterator

_TCP_LISTEN = "0A"  # include/net/tcp_states.h
_SO_ACCEPTCON = 1 << 16  # include/linux/net.h, __SO_ACCEPTCON: a unix socket that listens


@dataclass(frozen=True)
class Listener:
    """A socket that accepts connections."""

    pid: int
    protocol: str
    """tcp, tcp6 or unix; of `bound` also udp and udp6."""
    address: str
    """An IP address, or a path; an abstract unix socket's begins with @."""
    port: int
    """0 for unix."""


def listeners(pid: int, inodes: Container[int]) -> Iterator[Listener]:
    """Yield those of the sockets INODES of PID, in its network namespace, that listen. OSError when PID is gone."""
    if inodes:
        yield from _tcp(pid, "tcp", inodes)
        yield from _tcp(pid, "tcp6", inodes)
        yield from _unix(pid, inodes)


def bound(pid: int, inodes: Container[int]) -> Iterator[Listener]:
    """Yield those of the sockets INODES of PID that listen on a port of TCP, or wait for datagrams of anybody on one of UDP."""
    if inodes:
        yield from _tcp(pid, "tcp", inodes)
        yield from _tcp(pid, "tcp6", inodes)
        yield from _udp(pid, "udp", inodes)
        yield from _udp(pid, "udp6", inodes)


def connected(pid: int, inodes: Container[int]) -> Iterator[str]:
    """Yield the local address of each connection of TCP among the sockets INODES of PID, as the kernel writes it."""
    for protocol in ("tcp", "tcp6"):
        for words in _lines(pid, protocol):
            if words[3] != _TCP_LISTEN and int(words[9]) in inodes:
                yield words[1]


def _udp(pid: int, protocol: str, inodes: Container[int]) -> Iterator[Listener]:
    """Read lines as those of TCP are: what is connected to no peer has the port 0 there."""
    for words in _lines(pid, protocol):
        if words[2].endswith(":0000") and int(words[9]) in inodes:
            address, port = words[1].split(":")
            yield Listener(pid, protocol, _address(address), int(port, 16))


def _tcp(pid: int, protocol: str, inodes: Container[int]) -> Iterator[Listener]:
    """Read lines such as "0: 0100007F:18EB 00000000:0000 0A … 4711 …": local address, peer, state; the tenth word is the inode."""
    for words in _lines(pid, protocol):
        if words[3] == _TCP_LISTEN and int(words[9]) in inodes:
            address, port = words[1].split(":")
            yield Listener(pid, protocol, _address(address), int(port, 16))


def _address(text: str) -> str:
    """Return the IP address that TEXT says: 32-bit words in hexadecimal, each as this machine reads it from memory."""
    packed = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return str(ipaddress.ip_address(packed))


def _unix(pid: int, inodes: Container[int]) -> Iterator[Listener]:
    """Read lines such as "ffff…: 00000002 00000000 00010000 0001 01 4711 /run/x": flags fourth, then type, state, inode, path."""
    for words in _lines(pid, "unix"):
        if int(words[3], 16) & _SO_ACCEPTCON and int(words[6]) in inodes:
            yield Listener(pid, "unix", words[7].rstrip("\n") if len(words) > 7 else "", 0)


def _lines(pid: int, table: str) -> Iterator[list[str]]:
    """Yield the lines of /proc/PID/net/TABLE as words, but for its heading. A kernel without IPv6 has no tcp6."""
    try:
        with open(f"/proc/{pid}/net/{table}", encoding="utf-8", errors="surrogateescape") as lines:
            next(lines, None)
            for line in lines:
                yield line.split(None, 7) if table == "unix" else line.split()
    except FileNotFoundError:
        return
