# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""nf_tables over netlink: a table that drops the packets of given TCP connections, both ways.

Facts: linux/netfilter/nfnetlink.h, nf_tables.h (NFT_TABLE_F_OWNER: Linux 5.12), netfilter.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .sock_diag import NLM_F_REQUEST, NLMSG_ERROR

NETLINK_NETFILTER = 12
NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x4, 0x200, 0x400, 0x800
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM = 3, 6, 9, 12
NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
NF_DROP, NF_ACCEPT = 0, 1
NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT = 1, 3
NFT_TABLE_F_OWNER = 2
NFT_REG_VERDICT, NFT_REG32_00 = 0, 8
NFT_META_MARK, NFT_META_NFPROTO, NFT_META_L4PROTO = 3, 15, 16
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER = 1, 2
MARK = 0xC114
"""Packets with this mark pass: those that CRIU, or we, make up while a connection is locked (SOCCR_MARK of CRIU's soccr.h)."""

_NLMSGHDR = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("!BBH")
_NLATTR = struct.Struct("=HH")
_NLA_F_NESTED = 0x8000
_BUFFER = 1 << 16
_ELEMENTS = 500
"""Of a set, in one message: an attribute is shorter than 64 KiB."""
_FLAGS_AT, _SYN, _ACK = 13, 0x02, 0x10
"""Where a TCP header has its flags, and two of them (RFC 9293)."""
_HOOKS = (("output", NF_INET_LOCAL_OUT), ("input", NF_INET_LOCAL_IN))


@dataclass(frozen=True)
class Flow:
    """The packets of a TCP connection in one direction: two addresses of 4 or 16 bytes each, and two ports."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int

    @property
    def back(self) -> Flow:
        """The other direction."""
        return Flow(self.destination, self.destination_port, self.source, self.source_port)


@dataclass(frozen=True)
class _Protocol:
    """How a set holds the flows of IPv4 or IPv6, and where their packets have the addresses."""

    name: str
    number: int
    length: int
    source_offset: int
    type: int
    """The number that the program nft gives to the type of the key: 6 bits for each of its parts."""


_IPV4 = _Protocol("conns4", NFPROTO_IPV4, 4, 12, 7 << 18 | 13 << 12 | 7 << 6 | 13)
_IPV6 = _Protocol("conns6", NFPROTO_IPV6, 16, 8, 8 << 18 | 13 << 12 | 8 << 6 | 13)


class Nftables:
    """One netlink socket. A context manager; the tables that it owns vanish when it is closed, however we end."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None

    def __enter__(self) -> Nftables:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        return self

    def __exit__(self, *_: object) -> None:
        if self._netlink:
            self._netlink.close()

    def detach(self) -> int:
        """Return the descriptor of the socket, which is the caller's to close from now on."""
        netlink, self._netlink = self._socket, None
        return netlink.detach()

    @property
    def _socket(self) -> socket.socket:
        if self._netlink is None:
            raise ValueError("nf_tables was not opened")
        return self._netlink

    def drop(self, table: str, flows: Iterable[Flow], owned: bool) -> None:
        """Make TABLE, which drops FLOWS; OWNED: for as long as this socket is open. OSError when that is not possible, or it exists."""
        self._batch(list(_table(table, flows, owned)))

    def keep_away(self, table: str, listeners: Iterable[tuple[bytes, int]]) -> None:
        """Make TABLE, for as long as this socket is open: it drops the first packet of each new TCP connection to LISTENERS.

        Each is an address of 4 or 16 bytes, zeros for any, and a port. OSError when that is not possible.
        """
        rules = [_rule(table, "input", _dropping_first(*one)) for one in sorted(set(listeners))]
        made = _message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, _text(1, table) + _number(2, NFT_TABLE_F_OWNER))
        self._batch([made, _chain(table, "input", NF_INET_LOCAL_IN), *rules])

    def has(self, table: str) -> bool:
        """Tell whether there is TABLE. OSError when the kernel does not say so to us."""
        self._socket.send(_message(NFT_MSG_GETTABLE, 0, _text(1, table)))
        codes: list[int] = []
        while not codes:  # the table itself comes before the answer
            codes = list(_answers(self._socket.recv(_BUFFER)))
        if codes[0] not in (0, errno.ENOENT):
            raise OSError(codes[0], f"nf_tables: {os.strerror(codes[0])}")
        return not codes[0]

    def delete(self, table: str) -> bool:
        """Delete TABLE; tell whether there was one. OSError when it cannot be deleted.

        It is asked for first: a batch that fails makes the kernel wait for all processors (synchronize_rcu), 10 ms and more.
        """
        if not self.has(table):
            return False
        try:
            self._batch([_message(NFT_MSG_DELTABLE, 0, _text(1, table))])
        except FileNotFoundError:
            return False
        return True

    def _batch(self, messages: Sequence[bytes]) -> None:
        """Have MESSAGES carried out, all or none. OSError as the kernel says."""
        netlink = self._socket
        netlink.send(b"".join([_batch_mark(NFNL_MSG_BATCH_BEGIN), *messages, _batch_mark(NFNL_MSG_BATCH_END)]))
        left, failure = len(messages), 0
        while left > 0 and not failure:
            for code in _answers(netlink.recv(_BUFFER)):
                left -= 1
                failure = failure or code
        if failure:
            raise OSError(failure, f"nf_tables: {os.strerror(failure)}")


def _answers(data: bytes) -> Iterator[int]:
    """Yield the error numbers of the answers in DATA, 0 for what was done."""
    offset = 0
    while offset + _NLMSGHDR.size <= len(data):
        length, kind = _NLMSGHDR.unpack_from(data, offset)[:2]
        if kind == NLMSG_ERROR:
            yield -struct.unpack_from("=i", data, offset + _NLMSGHDR.size)[0]
        offset += max(length, _NLMSGHDR.size) + 3 & ~3


def _table(table: str, flows: Iterable[Flow], owned: bool) -> Iterator[bytes]:
    """Yield what makes the table, as CRIU's nftables lock has it (criu/netfilter.c): two chains, a set for each protocol."""
    yield _message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, _text(1, table) + _number(2, NFT_TABLE_F_OWNER if owned else 0))
    found = list(flows)
    protocols = [(_IPV4, [flow for flow in found if len(flow.source) == 4]), (_IPV6, [flow for flow in found if len(flow.source) == 16])]
    for number, (protocol, some) in enumerate(protocols, start=1):
        key = 2 * (protocol.length + 4)
        described = _number(3, 0) + _number(4, protocol.type) + _number(5, key) + _number(10, number)
        yield _message(NFT_MSG_NEWSET, NLM_F_CREATE, _text(1, table) + _text(2, protocol.name) + described)
        for at in range(0, len(some), _ELEMENTS):
            listed = b"".join(_nest(1, _nest(1, _attribute(1, _key(flow)))) for flow in some[at : at + _ELEMENTS])
            yield _message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, _text(1, table) + _text(2, protocol.name) + _nest(3, listed))
    for chain, hook in _HOOKS:
        yield _chain(table, chain, hook)
        passing = [_meta(NFT_META_MARK), _compare(struct.pack("=I", MARK)), _verdict(NF_ACCEPT)]
        yield _rule(table, chain, passing)
        for protocol, _some in protocols:
            yield _rule(table, chain, _dropping(protocol))


def _key(flow: Flow) -> bytes:
    """Return FLOW as a key: each part fills whole words."""
    ports = (struct.pack("!Hxx", port) for port in (flow.source_port, flow.destination_port))
    return flow.source + next(ports) + flow.destination + next(ports)


def _dropping(protocol: _Protocol) -> list[bytes]:
    """Return the expressions that drop what the set of PROTOCOL holds."""
    words = protocol.length // 4
    address, port = NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER
    return [
        _meta(NFT_META_NFPROTO),
        _compare(bytes([protocol.number])),
        _meta(NFT_META_L4PROTO),
        _compare(bytes([socket.IPPROTO_TCP])),
        _load(NFT_REG32_00, address, protocol.source_offset, protocol.length),
        _load(NFT_REG32_00 + words, port, 0, 2),
        _load(NFT_REG32_00 + words + 1, address, protocol.source_offset + protocol.length, protocol.length),
        _load(NFT_REG32_00 + 2 * words + 1, port, 2, 2),
        _expression("lookup", _text(1, protocol.name) + _number(2, NFT_REG32_00)),
        _verdict(NF_DROP),
    ]


def _dropping_first(address: bytes, port: int) -> list[bytes]:
    """Return the expressions that drop a packet to ADDRESS and PORT that begins a connection."""
    protocol = _IPV4 if len(address) == _IPV4.length else _IPV6
    own = [_load(NFT_REG32_00, NFT_PAYLOAD_NETWORK_HEADER, protocol.source_offset + protocol.length, protocol.length), _compare(address)]
    return [
        *([_meta(NFT_META_NFPROTO), _compare(bytes([protocol.number])), *own] if any(address) else []),  # [::] takes IPv4 too
        _meta(NFT_META_L4PROTO),
        _compare(bytes([socket.IPPROTO_TCP])),
        _load(NFT_REG32_00, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2),
        _compare(struct.pack("!H", port)),
        _load(NFT_REG32_00, NFT_PAYLOAD_TRANSPORT_HEADER, _FLAGS_AT, 1),
        _masked(bytes([_SYN | _ACK])),
        _compare(bytes([_SYN])),
        _verdict(NF_DROP),
    ]


def _chain(table: str, chain: str, hook: int) -> bytes:
    hooked = _nest(4, _number(1, hook) + _number(2, 0))
    return _message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, _text(1, table) + _text(3, chain) + hooked + _text(7, "filter"))


def _rule(table: str, chain: str, expressions: Sequence[bytes]) -> bytes:
    body = _text(1, table) + _text(2, chain) + _nest(4, b"".join(expressions))
    return _message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)


def _meta(key: int) -> bytes:
    return _expression("meta", _number(2, key) + _number(1, NFT_REG32_00))


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _number(1, NFT_REG32_00) + _number(2, 0) + _nest(3, _attribute(1, value)))


def _masked(mask: bytes) -> bytes:
    """Return what leaves only the bits of MASK in the register."""
    same, flipped = _nest(4, _attribute(1, mask)), _nest(5, _attribute(1, bytes(len(mask))))
    return _expression("bitwise", _number(1, NFT_REG32_00) + _number(2, NFT_REG32_00) + _number(3, len(mask)) + same + flipped)


def _load(register: int, header: int, offset: int, length: int) -> bytes:
    return _expression("payload", _number(1, register) + _number(2, header) + _number(3, offset) + _number(4, length))


def _verdict(code: int) -> bytes:
    return _expression("immediate", _number(1, NFT_REG_VERDICT) + _nest(2, _nest(2, _number(1, code))))


def _expression(name: str, data: bytes) -> bytes:
    return _nest(1, _text(1, name) + _nest(2, data))


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    body = _NFGENMSG.pack(NFPROTO_INET, 0, 0) + attributes
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0) + body


def _batch_mark(kind: int) -> bytes:
    body = _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, NLM_F_REQUEST, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, value)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))
