# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A TCP segment without data, given to a socket of this machine as if its peer had sent it (RFC 9293, raw(7))."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from .nftables import MARK, Flow

FIN, ACK = 0x01, 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_TTL = 64


@dataclass(frozen=True)
class Segment:
    """What the segment says."""

    flow: Flow
    sequence: int
    acknowledged: int
    flags: int
    window: int
    """As it stands in the header, without the scale."""


def send_segment(segment: Segment) -> None:
    """Send SEGMENT, marked so that a locked connection takes it. OSError without CAP_NET_RAW and CAP_NET_ADMIN."""
    flow = segment.flow
    family = socket.AF_INET if len(flow.source) == 4 else socket.AF_INET6
    body = _tcp(segment)
    if family == socket.AF_INET:
        head = _IPV4.pack(0x45, 0, _IPV4.size + len(body), 0, 0, _TTL, socket.IPPROTO_TCP, 0, flow.source, flow.destination)
    else:
        head = _IPV6.pack(6 << 28, len(body), socket.IPPROTO_TCP, _TTL, flow.source, flow.destination)
    with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        raw.sendto(head + body, (socket.inet_ntop(family, flow.destination), 0))


def _tcp(segment: Segment) -> bytes:
    flow = segment.flow
    numbers = (segment.sequence & 0xFFFFFFFF, segment.acknowledged & 0xFFFFFFFF, _TCP.size // 4 << 4, segment.flags, segment.window)
    bare = _TCP.pack(flow.source_port, flow.destination_port, *numbers, 0, 0)
    pseudo = flow.source + flow.destination + struct.pack("!II", socket.IPPROTO_TCP, len(bare))
    return _TCP.pack(flow.source_port, flow.destination_port, *numbers, _checksum(pseudo + bare), 0)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum of DATA, of even length (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
