# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""sock_diag(7) for UDP sockets: which directions are shut down, which only the kernel's table tells (linux/inet_diag.h)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping

from .sock_diag import NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, SOCK_DIAG_BY_FAMILY, attributes, messages

INET_DIAG_SHUTDOWN = 8
_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48s")
"""struct inet_diag_req_v2: family, protocol, extensions, padding, states, id."""
_MESSAGE = struct.Struct("=4B48s5I")
"""struct inet_diag_msg, its inode last."""
_ANY_STATE = 0xFFFFFFFF
_BUFFER = 1 << 16


def udp_shutdowns(family: int) -> Mapping[int, int]:
    """Return the sk_shutdown of each UDP socket of our network namespace that has a port, by inode: 1 for reading, 2 for writing.

    OSError when the kernel lists none (CONFIG_INET_UDP_DIAG).
    """
    found: dict[int, int] = {}
    body = _REQUEST.pack(family, socket.IPPROTO_UDP, 0, 0, _ANY_STATE, bytes(48))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        netlink.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + body)
        while True:
            for kind, payload in messages(netlink.recv(_BUFFER)):
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"inet_diag: {os.strerror(code)}")
                inode = _MESSAGE.unpack_from(payload)[-1]
                found[inode] = attributes(payload[_MESSAGE.size :]).get(INET_DIAG_SHUTDOWN, b"\0")[0]
