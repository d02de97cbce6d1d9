# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Netlink sockets (netlink(7)): port, groups, peer and options; nothing may wait in them to be read.

images: files.img (netlink_sk_entry; type and options in a field of our own, since CRIU has none for them).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator, Mapping

from ...errors import Obstacle, RestoreError
from ...images.schema import message
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile
from .socket_options import borrowed, domain, has_readable_filter, read_options, restore_options
from .status import set_flags

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LIST_MEMBERSHIPS = 9
NETLINK_UNCONNECTED = 0
NETLINK_CONNECTED = 1
_OPTIONS = {"pktinfo": 3, "broadcast_error": 4, "no_enobufs": 5, "listen_all_nsid": 8, "cap_ack": 10, "ext_ack": 11, "get_strict_chk": 12}
"""linux/netlink.h, NETLINK_PKTINFO and so on."""
_BOUND_TO_MORE = {9: "audit", 12: "netfilter"}
"""NETLINK_ protocols whose parts of the kernel keep state for a port, which is not told."""
_GROUPS = 1 << 10
"""Bytes of the map of groups; NETLINK_LIST_MEMBERSHIPS tells what it needs."""
_WORD = struct.Struct("=I")


def is_netlink(file: OpenFile) -> bool:
    """Tell whether FILE is a netlink socket."""
    return file.link.startswith("socket:[") and domain(file.local) == socket.AF_NETLINK


class NetlinkDump(KindDump):
    """Dumps netlink sockets."""

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse unread messages, and protocols that keep more for a socket than can be read."""
        with borrowed(file.local) as sock:
            if sock.proto in _BOUND_TO_MORE:
                why = f"a netlink socket of {_BOUND_TO_MORE[sock.proto]}, for which the kernel may keep more than it tells"
                yield file.obstacle(why, "have the program close it before the dump")
            poll = select.poll()
            poll.register(file.local, select.POLLIN)
            if poll.poll(0):
                yield file.obstacle("a netlink socket in which messages wait, which cannot be put back", "have it read them, or try again")
            if not has_readable_filter(sock):
                yield file.obstacle("an eBPF filter is attached to it, which the kernel does not give out", "have the program detach it")

    def collect(self, description: Description) -> Entry:
        """Return the netlink_sk_entry."""
        file = description.file
        with borrowed(file.local) as sock:
            port, _groups = sock.getsockname()
            dst_port, dst_groups = sock.getpeername()
            entry = message("netlink_sk_entry")(
                id=description.file_id,
                ino=file.stat.st_ino,
                protocol=sock.proto,
                state=NETLINK_CONNECTED if dst_port or dst_groups else NETLINK_UNCONNECTED,
                flags=file.flags,
                portid=port,
                groups=_groups_of(sock),
                dst_portid=dst_port,
                dst_group=dst_groups.bit_length(),  # the kernel keeps the number of one group
                fown=description.fown,
                opts=read_options(sock),
            )
            if sock.type != socket.SOCK_RAW:
                entry.stillframe.type = sock.type
            for field, option in _OPTIONS.items():
                if _option(sock, option):
                    setattr(entry.stillframe, field, True)
        return entry


def _groups_of(sock: socket.socket) -> list[int]:
    """Return the map of the groups, 32 in a word, without empty words at its end."""
    data = sock.getsockopt(SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, _GROUPS)
    words = [word for (word,) in _WORD.iter_unpack(data[: len(data) // _WORD.size * _WORD.size])]
    while words and not words[-1]:
        words.pop()
    return words


def _option(sock: socket.socket, option: int) -> int:
    try:
        return sock.getsockopt(SOL_NETLINK, option)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # an older kernel
            raise
        return 0


class NetlinkRestore(KindRestore):
    """Makes netlink sockets, and binds them to their ports."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Try whether each port can be bound here."""
        for file_id, entry in entries.items():
            where = f"netlink socket of protocol {entry.protocol} ({self.context.holder(file_id) or f'file {file_id}'})"
            try:
                _bound(entry).close()
            except OSError as error:
                remedy = "stop what uses it" if error.errno == errno.EADDRINUSE else "load the module of that protocol"
                yield Obstacle(0, where, f"port {entry.portid} cannot be bound ({error.strerror})", remedy)

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            try:
                sock = _bound(entry)
                found[file_id] = self.context.keep(sock.detach())
                with borrowed(found[file_id]) as ours:
                    _complete(ours, entry)
            except OSError as error:
                raise RestoreError(f"netlink port {entry.portid} cannot be restored ({error.strerror}); see what uses it") from error
        return found


def _bound(entry: Entry) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, entry.stillframe.type or socket.SOCK_RAW, entry.protocol)
    try:
        if entry.portid:
            sock.bind((entry.portid, 0))
    except OSError:
        sock.close()
        raise
    return sock


def _complete(sock: socket.socket, entry: Entry) -> None:
    restore_options(sock, entry.opts)  # its filter before its groups
    for field, option in _OPTIONS.items():
        if getattr(entry.stillframe, field):
            sock.setsockopt(SOL_NETLINK, option, 1)
    for index, word in enumerate(entry.groups):
        for bit in range(32):
            if word >> bit & 1:
                sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, index * 32 + bit + 1)
    if entry.state == NETLINK_CONNECTED:
        sock.connect((entry.dst_portid, 1 << entry.dst_group - 1 if entry.dst_group else 0))
    set_flags(sock.fileno(), entry.flags)


NETLINK_SOCKETS = Kind("NETLINKSK", "nlsk", is_netlink, NetlinkDump, NetlinkRestore)
