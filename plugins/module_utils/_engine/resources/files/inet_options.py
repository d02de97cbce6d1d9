# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Options of internet sockets that CRIU's images have no field for: what ip(7), ipv6(7), udp(7), tcp(7) and socket(7) set by one number.

images: stillframe_option_entry (level, option, value) in inet_sk_entry, those alone that differ from a new socket's.
"""

from __future__ import annotations

import errno
import socket

from ...images.schema import message
from .kind import Entry

_IP, _IPV6, _UDP, _TCP = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.IPPROTO_UDP, socket.IPPROTO_TCP
_ANY = (
    *((socket.SOL_SOCKET, option) for option in (29, 35, 63, 64, 37, 65)),  # SO_TIMESTAMP, …NS, both …_NEW, …ING, …ING_NEW
    *((socket.SOL_SOCKET, option) for option in (40, 44, 45, 60, 73, 75, 82)),  # RXQ_OVFL, LOCK_FILTER, …
    *((_IP, option) for option in (10, 11, 19, 21, 24, 51)),  # MTU_DISCOVER, RECVERR, TRANSPARENT, MINTTL, BIND_ADDRESS_NO_PORT, …
)
_ANY_V6 = (
    *((_IPV6, option) for option in (16, 23, 25, 67, 70, 72, 73, 75)),  # UNICAST_HOPS, MTU_DISCOVER, RECVERR, TCLASS, AUTOFLOWLABEL, …
    *((_IP, option) for option in (socket.IP_TOS, socket.IP_TTL)),
)
_DATAGRAM = (
    *((_IP, option) for option in (6, 7, 12, 13, 18, 20, 23, 25, 26)),  # what is received beside a datagram: RECVOPTS … RECVERR_RFC4884
    *((_IP, option) for option in (32, 33, 34, 49, 50)),  # MULTICAST_IF, MULTICAST_TTL, MULTICAST_LOOP, MULTICAST_ALL, UNICAST_IF
)
_DATAGRAM_V6 = (
    *((_IPV6, option) for option in (11, 31, 51, 53, 56, 58, 60, 66, 74, 77)),  # FLOWINFO … RECVFRAGSIZE
    *((_IPV6, option) for option in (17, 18, 19, 29, 33, 62, 76)),  # MULTICAST_IF, MULTICAST_HOPS, MULTICAST_LOOP, MULTICAST_ALL, …
    (_IP, 8),  # PKTINFO, of what comes by IPv4
)
_OF_UDP = tuple((_UDP, option) for option in (100, 101, 102, 103, 104))  # ENCAP, NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO
_OF_TCP = tuple((_TCP, option) for option in (17, 34, 37))  # THIN_DUPACK, FASTOPEN_NO_COOKIE, TX_DELAY
_UNKNOWN = (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTCONN)
"""What a kernel, or a socket, says that has no such option."""

Option = tuple[int, int]
"""Level and number."""


def read_inet_options(sock: socket.socket, entry: Entry) -> None:
    """Put the options of SOCK into ENTRY, an inet_sk_entry."""
    with socket.socket(sock.family, sock.type, sock.proto) as new:
        for level, option in _options(sock):
            value = option_value(sock, level, option)
            if value is not None and value != option_value(new, level, option):
                entry.stillframe.options.append(message("stillframe_option_entry")(level=level, option=option, value=value))


def restore_inet_options(sock: socket.socket, entry: Entry) -> None:
    """Give SOCK the options of ENTRY. OSError for what may not be set."""
    for one in entry.stillframe.options:
        if option_value(sock, one.level, one.option) != one.value:
            sock.setsockopt(one.level, one.option, one.value)


def _options(sock: socket.socket) -> tuple[Option, ...]:
    six, stream = sock.family == socket.AF_INET6, sock.type == socket.SOCK_STREAM
    found = _ANY + (_ANY_V6 if six else ()) + (_OF_TCP if stream else _DATAGRAM + (_DATAGRAM_V6 if six else ()))
    return found + _OF_UDP if sock.type == socket.SOCK_DGRAM and sock.proto == socket.IPPROTO_UDP else found


def option_value(sock: socket.socket, level: int, option: int) -> int | None:
    """Return the value of an option, None when there is no such one."""
    try:
        return sock.getsockopt(level, option)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return None
