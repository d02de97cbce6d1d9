# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memberships of internet sockets in multicast groups, with the sources that they let in (RFC 3678, linux/in.h).

images: stillframe_membership_entry in inet_sk_entry. The kernel does not list the groups of a socket, but those of the machine
(/proc/net/igmp, igmp6), and tells of each whether a socket is in it.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from ...errors import Obstacle
from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import Entry

MCAST_JOIN_GROUP, MCAST_MSFILTER = 42, 48
MCAST_EXCLUDE = 0
_ADDRESS = {socket.AF_INET: struct.Struct("=HH4s120x"), socket.AF_INET6: struct.Struct("=HHI16s104x")}
"""struct sockaddr_storage: of IPv4 and of IPv6, without a port."""
_LEVEL = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
_REQUEST = struct.Struct("=I4x128s")
"""struct group_req: interface, group."""
_FILTER = struct.Struct("=I4x128sII")
"""struct group_filter: interface, group, mode, number of sources; then the sources."""
_LENGTH = struct.Struct("=I")
_MOST_SOURCES = 512
"""More than igmp_max_msf and mld_max_msf allow by default (10 and 64)."""


def read_memberships(sock: socket.socket) -> Iterator[Entry]:
    """Yield a stillframe_membership_entry for each group that SOCK is in."""
    for index, group in sorted(_groups(sock.family)):
        answer = _ask(sock, index, group)
        if answer is not None:
            _index, _group, mode, count = _FILTER.unpack_from(answer)
            sources = [_host(sock.family, answer[at : at + 128]) for at in range(_FILTER.size, _FILTER.size + 128 * count, 128)]
            yield message("stillframe_membership_entry")(
                interface=socket.if_indextoname(index), group=group, mode=mode, sources=sources
            )


def check_memberships(where: str, entry: Entry) -> Iterator[Obstacle]:
    """Return the interfaces that are missing here."""
    names = {name for _index, name in socket.if_nameindex()}
    for name in {one.interface for one in entry.stillframe.memberships} - names:
        yield Obstacle(0, where, f"it is in a multicast group on interface {name}, which is missing", "make the interface")


def join_groups(sock: socket.socket, entry: Entry) -> None:
    """Make SOCK a member of the groups of ENTRY. OSError as the kernel says."""
    level = _LEVEL[socket.AddressFamily(entry.family)]
    for one in entry.stillframe.memberships:
        index, group = socket.if_nametoindex(one.interface), _packed(entry.family, one.group)
        sock.setsockopt(level, MCAST_JOIN_GROUP, _REQUEST.pack(index, group))
        if one.mode != MCAST_EXCLUDE or one.sources:
            sources = b"".join(_packed(entry.family, source) for source in one.sources)
            sock.setsockopt(level, MCAST_MSFILTER, _FILTER.pack(index, group, one.mode, len(one.sources)) + sources)


def _groups(family: int) -> set[tuple[int, bytes]]:
    """Return interface and address of each group that this machine, in our network namespace, is in."""
    return _groups_v4() if family == socket.AF_INET else _groups_v6()


def _groups_v4() -> set[tuple[int, bytes]]:
    found, index = set(), 0
    with open("/proc/net/igmp", encoding="ascii") as table:
        for words in [line.split() for line in table][1:]:
            if ":" in words:
                index = int(words[0])
            else:
                found.add((index, struct.pack("=I", int(words[0], 16))))
    return found


def _groups_v6() -> set[tuple[int, bytes]]:
    try:
        with open("/proc/net/igmp6", encoding="ascii") as table:
            return {(int(words[0]), bytes.fromhex(words[2])) for words in map(str.split, table)}
    except FileNotFoundError:  # a kernel without IPv6
        return set()


def _ask(sock: socket.socket, index: int, group: bytes) -> bytes | None:
    """Return a struct group_filter and its sources, None when SOCK is not in the group."""
    head = _FILTER.pack(index, _packed(sock.family, group), 0, _MOST_SOURCES)
    room = ctypes.create_string_buffer(head, _FILTER.size + 128 * _MOST_SOURCES)
    try:
        syscall(
            "getsockopt", sock.fileno(), _LEVEL[socket.AddressFamily(sock.family)], MCAST_MSFILTER, room, _length(len(room))
        )
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL):
            return None
        raise
    return room.raw


def _length(size: int) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(_LENGTH.pack(size), _LENGTH.size)


def _packed(family: int, host: bytes) -> bytes:
    layout = _ADDRESS[socket.AddressFamily(family)]
    return layout.pack(family, 0, host) if family == socket.AF_INET else layout.pack(family, 0, 0, host)


def _host(family: int, packed: bytes) -> bytes:
    found: Sequence[bytes] = _ADDRESS[socket.AddressFamily(family)].unpack(packed)
    return found[-1]
