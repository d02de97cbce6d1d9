# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A network namespace of one's own in which every address is a local one: what listened anywhere can listen here, and nothing gets out.

Facts: rtnetlink(7), netdevice(7); linux/rtnetlink.h, if.h. A local route for all addresses lets IPv4 sockets bind to any of them;
IPv6 sockets need the sysctl ip_nonlocal_bind besides (net/ipv6/af_inet6.c).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from .nftables import NLM_F_ACK, NLM_F_CREATE
from .sock_diag import NLM_F_REQUEST, NLMSG_ERROR

NETLINK_ROUTE = 0
RTM_NEWROUTE = 24
RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL = 255, 3, 254, 2
RTA_OIF = 4
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1

_LOOPBACK = "lo"
_NONLOCAL = "/proc/sys/net/{}/ip_nonlocal_bind"
_NLMSGHDR = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")
_OIF = struct.Struct("=HHI")
_IFREQ = struct.Struct("=16sH22x")


def make_all_local() -> None:
    """Bring up the loopback device of our network namespace, and take every address for one of ours. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, _IFREQ.pack(_LOOPBACK.encode(), IFF_UP))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE) as netlink:
        _add_route(netlink, socket.AF_INET)
        if os.path.exists(_NONLOCAL.format("ipv6")):
            _add_route(netlink, socket.AF_INET6)
            with open(_NONLOCAL.format("ipv6"), "w", encoding="ascii") as switch:
                switch.write("1")


def _add_route(netlink: socket.socket, family: int) -> None:
    route = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0)
    body = route + _OIF.pack(_OIF.size, RTA_OIF, socket.if_nametoindex(_LOOPBACK))
    netlink.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0) + body)
    answer = netlink.recv(1 << 16)
    code = -struct.unpack_from("=i", answer, _NLMSGHDR.size)[0] if _NLMSGHDR.unpack_from(answer)[1] == NLMSG_ERROR else 0
    if code:
        raise OSError(code, f"a route for all addresses: {os.strerror(code)}")
