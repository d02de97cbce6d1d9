# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Internet addresses as the images have them: words of 32 bits in network order, one for IPv4 and four for IPv6 (inet_sk_entry)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Union

from ...kernel.nftables import Flow
from .kind import Entry

WORDS: Mapping[int, struct.Struct] = {socket.AF_INET: struct.Struct("=I"), socket.AF_INET6: struct.Struct("=4I")}
_MAPPED = bytes(10) + b"\xff\xff"
"""Before an IPv4 address that an IPv6 socket uses."""

Address = Union["tuple[str, int]", "tuple[str, int, int, int]"]


def words(family: int, packed: bytes) -> Sequence[int]:
    """Return the words of an address, all 0 when PACKED is empty."""
    layout = WORDS[family]
    return layout.unpack(packed or bytes(layout.size))


def host(entry: Entry, address_words: Iterable[int]) -> str:
    """Return an address as text; images of the first CRIU hold four words for IPv4 too."""
    layout = WORDS[entry.family]
    return socket.inet_ntop(entry.family, b"".join(struct.pack("=I", word) for word in address_words)[: layout.size])


def address(entry: Entry, address_words: Iterable[int], port: int) -> Address:
    """Return what bind(2) and connect(2) take. OSError when the interface that it names is missing."""
    name = host(entry, address_words)
    if entry.family == socket.AF_INET:
        return name, port
    return name, port, 0, socket.if_nametoindex(entry.ifname) if entry.ifname else 0


def own_flow(own: bytes, own_port: int, peer: bytes, peer_port: int) -> Flow:
    """Return the packets that go from OWN to PEER: of IPv4 when an IPv6 socket uses that."""
    if peer.startswith(_MAPPED) and len(peer) == 16:
        own, peer = own[12:], peer[12:]
    return Flow(own, own_port, peer, peer_port)
