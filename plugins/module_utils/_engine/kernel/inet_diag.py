# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""sock_diag(7) for internet sockets: what only the kernel's tables tell of them (linux/inet_diag.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .sock_diag import NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, SOCK_DIAG_BY_FAMILY, attributes, messages

INET_DIAG_INFO = 2
INET_DIAG_SHUTDOWN = 8
INET_DIAG_MD5SIG = 18
_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states, id."""
_MESSAGE = struct.Struct("=4B48s5I")
"""struct inet_diag_msg: family and state first, the struct inet_diag_sockid fifth, the queues seventh and eighth, its inode last."""
_OWN = struct.Struct("!H2x16s")
"""The begin of struct inet_diag_sockid: port, port of the peer, address."""
TCP_SYN_RECV, TCP_LISTEN = 3, 10
_ANY_STATE = 0xFFFFFFFF
_BUFFER = 1 << 16


def udp_shutdowns(family: int) -> Mapping[int, int]:
    """Return the sk_shutdown of each UDP socket of our network namespace that has a port, by inode: 1 for reading, 2 for writing.

    OSError when the kernel lists none (CONFIG_INET_UDP_DIAG).
    """
    return {inode: found.get(INET_DIAG_SHUTDOWN, b"\0")[0] for inode, found in _sockets(family, socket.IPPROTO_UDP)}


def sockets_with_md5_keys(family: int) -> set[int]:
    """Return the inodes of the TCP sockets of our network namespace that are in use and have keys of TCP-MD5.

    Without CAP_NET_ADMIN the kernel tells of none. OSError when it lists none (CONFIG_INET_TCP_DIAG).
    """
    return {inode for inode, found in _sockets(family, socket.IPPROTO_TCP, 1 << INET_DIAG_INFO - 1) if INET_DIAG_MD5SIG in found}


class TcpSocket(NamedTuple):
    """What the table tells of a TCP socket."""

    inode: int
    """0 for a connection that is just being made."""
    address: bytes
    """Its own, of 4 or 16 bytes."""
    port: int
    receive_queue: int
    """Of one that listens: connections that wait to be accepted."""


def tcp_sockets(family: int, state: int) -> Iterator[TcpSocket]:
    """Yield the TCP sockets of our network namespace in STATE (include/net/tcp_states.h). OSError as above."""
    for fields, _found in _entries(family, socket.IPPROTO_TCP, 0, 1 << state):
        port, address = _OWN.unpack_from(fields[4])
        yield TcpSocket(fields[-1], address if family == socket.AF_INET6 else address[:4], port, fields[6])


def _sockets(family: int, protocol: int, extensions: int = 0) -> Iterator[tuple[int, Mapping[int, bytes]]]:
    """Yield the inode of each socket that is in the kernel's table, and its attributes; some are told only with EXTENSIONS."""
    for fields, found in _entries(family, protocol, extensions, _ANY_STATE):
        yield fields[-1], found


def _entries(family: int, protocol: int, extensions: int, states: int) -> Iterator[tuple[tuple[Any, ...], Mapping[int, bytes]]]:
    """Yield struct inet_diag_msg and the attributes of each socket that is in the kernel's table in one of STATES, bits."""
    body = _REQUEST.pack(family, protocol, extensions, 0, states, bytes(48))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        netlink.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body)
        while True:
            for kind, payload in messages(netlink.recv(_BUFFER)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"inet_diag: {os.strerror(code)}")
                yield _MESSAGE.unpack_from(payload), attributes(payload[_MESSAGE.size :])
