# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Internet sockets that are neither TCP nor UDP: raw(7), ICMP echo (icmp(7)), UDP-lite (udplite(7)).

images: ip_opts_raw_entry of inet_sk_entry; what is to be covered by checksums in a field of our own.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress

from ...errors import Obstacle
from ...kernel.sock_diag import TCP_ESTABLISHED
from .kind import Entry, OpenFile
from .socket_options import borrowed

IPPROTO_UDPLITE = 136
IPPROTO_MPTCP = 262
UDPLITE_SEND_CSCOV = 10
UDPLITE_RECV_CSCOV = 11
UDP_CORK = 1
IP_HDRINCL = 3
IP_NODEFRAG = 22
IPV6_CHECKSUM = 7
IPV6_HDRINCL = 36
SOL_RAW = 255
SOL_ICMPV6 = 58
ICMP_FILTER = 1
ICMPV6_FILTER = 1
_ICMP = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
_FILTERS = {
    (socket.AF_INET, socket.IPPROTO_ICMP): (SOL_RAW, ICMP_FILTER, struct.Struct("=I")),
    (socket.AF_INET6, socket.IPPROTO_ICMPV6): (SOL_ICMPV6, ICMPV6_FILTER, struct.Struct("=8I")),
}
_HEADER = {socket.AF_INET: (socket.IPPROTO_IP, IP_HDRINCL), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_HDRINCL)}
_COVERAGE = {"send_coverage": UDPLITE_SEND_CSCOV, "receive_coverage": UDPLITE_RECV_CSCOV}
_TABLES = {
    (socket.AF_INET, socket.SOCK_RAW): "raw",
    (socket.AF_INET6, socket.SOCK_RAW): "raw6",
    (socket.AF_INET, socket.SOCK_DGRAM): "icmp",
    (socket.AF_INET6, socket.SOCK_DGRAM): "icmp6",
}
"""Files of /proc/net."""
_REMOTE, _STATE, _INODE = 2, 3, 9
"""Columns of these files (Documentation/networking/proc_net_tcp.rst)."""


def is_datagram(kind: int, proto: int) -> bool:
    """Tell whether this file carries sockets of type KIND and protocol PROTO."""
    return kind == socket.SOCK_RAW or kind == socket.SOCK_DGRAM and proto in (IPPROTO_UDPLITE, *_ICMP)


def protocol_name(entry: Entry) -> str:
    """Name the protocol of an inet_sk_entry."""
    if entry.type == socket.SOCK_RAW:
        return "raw"
    names = {socket.IPPROTO_TCP: "TCP", IPPROTO_MPTCP: "MPTCP", IPPROTO_UDPLITE: "UDP-lite", **dict.fromkeys(_ICMP, "ICMP")}
    return names.get(entry.proto, "UDP")


def check_datagram(file: OpenFile) -> Iterator[Obstacle]:
    """Refuse a half-made datagram, and connections without a port."""
    with borrowed(file.local) as sock:
        if sock.proto == IPPROTO_UDPLITE and sock.type == socket.SOCK_DGRAM and sock.getsockopt(socket.IPPROTO_UDP, UDP_CORK):
            yield file.obstacle("a UDP-lite socket with a datagram half made (UDP_CORK)", "have the program send it")
        if sock.proto != IPPROTO_UDPLITE and _is_connected(sock, file.stat.st_ino):
            yield file.obstacle("a raw or ICMP socket that is connected, to whom the kernel does not tell", "have the program close it")


def has_unread(local: int) -> bool:
    """Tell whether datagrams wait to be read."""
    with suppress(OSError):  # ICMP sockets do not tell
        return bool(struct.unpack("=i", fcntl.ioctl(local, termios.FIONREAD, bytes(4)))[0])
    poll = select.poll()
    poll.register(local, select.POLLIN)
    return bool(poll.poll(0))


def read_datagram(sock: socket.socket, entry: Entry) -> None:
    """Fill in the options of SOCK, which is of a kind of this file."""
    if sock.type == socket.SOCK_RAW:
        raw = entry.ip_opts.raw
        if sock.getsockopt(*_HEADER[socket.AddressFamily(sock.family)]):
            raw.hdrincl = True
        if sock.family == socket.AF_INET and sock.getsockopt(socket.IPPROTO_IP, IP_NODEFRAG):
            raw.nodefrag = True
        if (sock.family, sock.proto) in _FILTERS:
            level, option, layout = _FILTERS[socket.AddressFamily(sock.family), sock.proto]
            raw.icmpv_filter.extend(layout.unpack(sock.getsockopt(level, option, layout.size)))
        elif sock.family == socket.AF_INET6 and sock.getsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM) >= 0:
            entry.stillframe.checksum = sock.getsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM)
    elif sock.proto == IPPROTO_UDPLITE:
        for field, option in _COVERAGE.items():
            value = sock.getsockopt(IPPROTO_UDPLITE, option)
            if value:
                setattr(entry.stillframe, field, value)


def restore_datagram(sock: socket.socket, entry: Entry) -> None:
    """Give SOCK the options of ENTRY. OSError for what we may not set."""
    if entry.type == socket.SOCK_RAW:
        raw = entry.ip_opts.raw
        if raw.HasField("hdrincl"):
            sock.setsockopt(*_HEADER[socket.AddressFamily(entry.family)], int(raw.hdrincl))
        if raw.nodefrag:
            sock.setsockopt(socket.IPPROTO_IP, IP_NODEFRAG, 1)
        if raw.icmpv_filter and (entry.family, entry.proto) in _FILTERS:
            level, option, layout = _FILTERS[socket.AddressFamily(entry.family), entry.proto]
            sock.setsockopt(level, option, layout.pack(*raw.icmpv_filter))
        if entry.stillframe.HasField("checksum"):
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, entry.stillframe.checksum)
    elif entry.proto == IPPROTO_UDPLITE:
        for field, option in _COVERAGE.items():
            if getattr(entry.stillframe, field):
                sock.setsockopt(IPPROTO_UDPLITE, option, getattr(entry.stillframe, field))


def _is_connected(sock: socket.socket, inode: int) -> bool:
    with open(f"/proc/net/{_TABLES[socket.AddressFamily(sock.family), socket.SocketKind(sock.type)]}", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return any(row[_INODE] == str(inode) and int(row[_STATE], 16) == TCP_ESTABLISHED for row in rows)
