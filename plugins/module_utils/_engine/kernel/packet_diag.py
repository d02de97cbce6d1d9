# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""sock_diag(7) for packet sockets (linux/packet_diag.h, CONFIG_PACKET_DIAG): rings, memberships and what no option tells."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from collections.abc import Iterator

from .sock_diag import NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, SOCK_DIAG_BY_FAMILY, attributes, messages

PACKET_SHOW_INFO = 0x1
PACKET_SHOW_MCLIST = 0x2
PACKET_SHOW_RING_CFG = 0x4
PACKET_SHOW_FANOUT = 0x8
PACKET_DIAG_INFO = 0
PACKET_DIAG_MCLIST = 1
PACKET_DIAG_RX_RING = 2
PACKET_DIAG_TX_RING = 3
PACKET_DIAG_FANOUT = 4
PDI_AUXDATA = 0x2
PDI_ORIGDEV = 0x4
PDI_VNETHDR = 0x8
PDI_LOSS = 0x10

_SHOW = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT
_REQUEST = struct.Struct("=IHHIIBBHIIII")
"""struct nlmsghdr, then struct packet_diag_req."""
_MESSAGE = struct.Struct("=BBHIII")
_INFO = struct.Struct("=6I")
_MEMBERSHIP = struct.Struct("=IIHH32s")
_RING = struct.Struct("=7I")
_BUFFER = 1 << 16


@dataclass(frozen=True)
class Membership:
    """One entry of the list that PACKET_ADD_MEMBERSHIP adds to."""

    index: int
    count: int
    type: int
    address: bytes


@dataclass(frozen=True)
class PacketSocket:
    """One packet socket of our network namespace, as the kernel lists it."""

    inode: int
    type: int
    protocol: int
    """An ETH_P_ number, in host order."""
    index: int
    version: int
    reserve: int
    copy_thresh: int
    timestamp: int
    flags: int
    """PDI_ bits."""
    memberships: tuple[Membership, ...]
    rx_ring: tuple[int, ...] | None
    """block_size, block_nr, frame_size, frame_nr, retire_tmo, sizeof_priv, features."""
    tx_ring: tuple[int, ...] | None
    fanout: int | None


def packet_socket(inode: int) -> PacketSocket | None:
    """Return the packet socket of INODE, None when our network namespace has none. OSError when the kernel does not list them."""
    return next((sock for sock in _all() if sock.inode == inode), None)


def _all() -> Iterator[PacketSocket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        head = (_REQUEST.size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
        netlink.send(_REQUEST.pack(*head, socket.AF_PACKET, 0, 0, 0, _SHOW, 0, 0))
        while True:
            for kind, payload in messages(netlink.recv(_BUFFER)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"packet_diag: {os.strerror(code)}")
                yield _socket(payload)


def _socket(payload: bytes) -> PacketSocket:
    _family, kind, protocol, inode = _MESSAGE.unpack_from(payload)[:4]
    found = attributes(payload[_MESSAGE.size :])
    index, version, reserve, copy_thresh, timestamp, flags = _INFO.unpack_from(found[PACKET_DIAG_INFO])
    rows = _MEMBERSHIP.iter_unpack(found.get(PACKET_DIAG_MCLIST, b""))
    members = [Membership(device, count, what, address[:length]) for device, count, what, length, address in rows]
    return PacketSocket(
        inode=inode,
        type=kind,
        protocol=protocol,
        index=index,
        version=version,
        reserve=reserve,
        copy_thresh=copy_thresh,
        timestamp=timestamp,
        flags=flags,
        memberships=tuple(members),
        rx_ring=_ring(found.get(PACKET_DIAG_RX_RING)),
        tx_ring=_ring(found.get(PACKET_DIAG_TX_RING)),
        fanout=struct.unpack("=I", found[PACKET_DIAG_FANOUT])[0] if PACKET_DIAG_FANOUT in found else None,
    )


def _ring(value: bytes | None) -> tuple[int, ...] | None:
    return _RING.unpack(value) if value and _RING.unpack(value)[1] else None
