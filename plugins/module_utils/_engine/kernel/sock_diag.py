# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""sock_diag(7) for unix sockets: name, peer, backlog and queued connections, which only the kernel's tables tell."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from collections.abc import Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST = 0x1
NLM_F_DUMP = 0x300
NLMSG_ERROR = 2
NLMSG_DONE = 3
UDIAG_SHOW_NAME = 0x01
UDIAG_SHOW_VFS = 0x02
UDIAG_SHOW_PEER = 0x04
UDIAG_SHOW_ICONS = 0x08
UDIAG_SHOW_RQLEN = 0x10
UNIX_DIAG_NAME = 0
UNIX_DIAG_VFS = 1
UNIX_DIAG_PEER = 2
UNIX_DIAG_ICONS = 3
UNIX_DIAG_RQLEN = 4
UNIX_DIAG_SHUTDOWN = 6

TCP_ESTABLISHED = 1
TCP_CLOSE = 7
TCP_LISTEN = 10

_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_EVERYTHING = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN
_NLMSGHDR = struct.Struct("=IHHII")
_UNIX_DIAG_REQ = struct.Struct("=BBHIIIII")
_UNIX_DIAG_MSG = struct.Struct("=BBBBIII")
_NLATTR = struct.Struct("=HH")
_BUFFER = 1 << 16


@dataclass(frozen=True)
class UnixSocket:
    """One unix socket of our network namespace, as the kernel lists it."""

    inode: int
    type: int
    """SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET."""
    state: int
    """TCP_ESTABLISHED, TCP_CLOSE or TCP_LISTEN."""
    name: bytes
    """The bound address: a path with its closing NUL, an abstract name with its leading NUL, or nothing."""
    vfs: tuple[int, int] | None
    """(inode, device in the kernel's encoding) of the path that it is bound to."""
    peer: int
    """The peer's inode number, 0 without a peer."""
    connecting: tuple[int, ...]
    """Of a listening socket: the inode numbers of sockets that connected and were not accepted yet."""
    rqueue: int
    """Bytes waiting to be read; of a listening socket the connections waiting."""
    wqueue: int
    """Memory held by what was sent and not read yet; of a listening socket its backlog."""
    shutdown: int
    """1 for reading, 2 for writing, 3 for both: SHUT_RD + 1 and so on, as the kernel's RCV_SHUTDOWN and SEND_SHUTDOWN."""


class UnixSockets:
    """The kernel's table of unix sockets (CONFIG_UNIX_DIAG), one netlink socket for many questions. A context manager."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None

    def __enter__(self) -> UnixSockets:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
        return self

    def __exit__(self, *_: object) -> None:
        if self._netlink:
            self._netlink.close()

    def find(self, inode: int) -> UnixSocket | None:
        """Return the socket of INODE; None when our network namespace has none."""
        try:
            return next(self._ask(inode, 0), None)
        except FileNotFoundError:
            return None

    def all(self) -> list[UnixSocket]:
        """Return every unix socket of our network namespace."""
        return list(self._ask(0, NLM_F_DUMP))

    def _ask(self, inode: int, flags: int) -> Iterator[UnixSocket]:
        netlink = self._netlink
        if netlink is None:
            raise ValueError("the table of unix sockets was not opened")
        body = _UNIX_DIAG_REQ.pack(socket.AF_UNIX, 0, 0, _ANY_STATE, inode, _EVERYTHING, _NO_COOKIE, _NO_COOKIE)
        netlink.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | flags, 0, 0) + body)
        while True:
            for kind, payload in messages(netlink.recv(_BUFFER)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"sock_diag: {os.strerror(code)}")
                yield _unix_socket(payload)
            if not flags & NLM_F_DUMP:
                return


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split DATA into netlink messages (netlink(7)): (type, payload) each."""
    offset = 0
    while offset + _NLMSGHDR.size <= len(data):
        length, kind = _NLMSGHDR.unpack_from(data, offset)[:2]
        if length < _NLMSGHDR.size:
            raise OSError(errno.EBADMSG, "sock_diag: a netlink message is shorter than its header")
        yield kind, data[offset + _NLMSGHDR.size : offset + length]
        offset += length + 3 & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Split DATA into netlink attributes: their values by their types."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _NLATTR.size <= len(data):
        length, kind = _NLATTR.unpack_from(data, offset)
        found[kind] = data[offset + _NLATTR.size : offset + length]
        offset += max(length, _NLATTR.size) + 3 & ~3
    return found


def _unix_socket(payload: bytes) -> UnixSocket:
    _family, kind, state, _pad, inode = _UNIX_DIAG_MSG.unpack_from(payload)[:5]
    found = attributes(payload[_UNIX_DIAG_MSG.size :])
    icons = found.get(UNIX_DIAG_ICONS, b"")
    rqueue, wqueue = struct.unpack("=II", found.get(UNIX_DIAG_RQLEN, bytes(8)))
    vfs = found.get(UNIX_DIAG_VFS)
    return UnixSocket(
        inode=inode,
        type=kind,
        state=state,
        name=found.get(UNIX_DIAG_NAME, b""),
        vfs=struct.unpack("=II", vfs) if vfs else None,
        peer=struct.unpack("=I", found.get(UNIX_DIAG_PEER, bytes(4)))[0],
        connecting=struct.unpack(f"={len(icons) // 4}I", icons),
        rqueue=rqueue,
        wqueue=wqueue,
        shutdown=found.get(UNIX_DIAG_SHUTDOWN, b"\0")[0],
    )
