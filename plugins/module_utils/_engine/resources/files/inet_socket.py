# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP and UDP sockets over IPv4 and IPv6; what a TCP connection needs beyond them is in tcp_connection.py.

images: files.img (inet_sk_entry with sk_opts_entry, ip_opts_entry and tcp_opts_entry).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence

from ...errors import Obstacle, RestoreError
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.inet_diag import udp_shutdowns
from ...kernel.sock_diag import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN
from ...kernel.tcp_repair import FIN_SENT
from .inet_address import WORDS, address, host, words
from .inet_datagram import IPPROTO_MPTCP, check_datagram, has_unread, is_datagram, protocol_name, read_datagram, restore_datagram
from .inet_options import option_value, read_inet_options, restore_inet_options
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext
from .multicast import check_memberships, join_groups, read_memberships
from .socket_keys import check_keys, option_memory
from .socket_options import borrowed, domain, has_readable_filter, read_options, restore_options
from .status import set_flags
from .tcp_connection import ConnectionsDump, ConnectionsRestore, is_connection, is_connection_entry, peer_of
from .tcp_options import read_tcp_options, restore_tcp_options

IP_FREEBIND = 15
IP_PKTINFO = 8
IPV6_FREEBIND = 78
UDP_CORK = 1
SOL_UDP = 17

_TCP_INFO = struct.Struct("=8B6I")
"""The head of struct tcp_info (linux/tcp.h); when listening, unacked is the queue and sacked the backlog."""
_TCPI_STATE, _TCPI_UNACKED, _TCPI_SACKED = 0, 12, 13
_TCP = (socket.IPPROTO_TCP, IPPROTO_MPTCP)
"""What listens alike: a connection accepted from MPTCP is one of TCP if its client speaks no MPTCP."""
_OTHERS = {33: "DCCP", 132: "SCTP", 256: "SMC"}
_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, IP_FREEBIND), socket.AF_INET6: (socket.IPPROTO_IPV6, IPV6_FREEBIND)}
_IP_OPTIONS = {
    socket.AF_INET: (
        ("freebind", *_FREEBIND[socket.AF_INET]),
        ("pktinfo", socket.IPPROTO_IP, IP_PKTINFO),
        ("tos", socket.IPPROTO_IP, socket.IP_TOS),
        ("ttl", socket.IPPROTO_IP, socket.IP_TTL),
    ),
    socket.AF_INET6: (
        ("freebind", *_FREEBIND[socket.AF_INET6]),
        ("pktinfo", socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    ),
}


def is_inet(file: OpenFile) -> bool:
    """Tell whether FILE is an IPv4 or IPv6 socket."""
    return file.link.startswith("socket:[") and domain(file.local) in (socket.AF_INET, socket.AF_INET6)


def _is_tcp(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM and sock.proto in _TCP


def _is_udp(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_DGRAM and sock.proto == socket.IPPROTO_UDP


def _tcp_info(sock: socket.socket) -> tuple[int, int, int]:
    """Return state, length of the queue of connections, and backlog."""
    info = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    return info[_TCPI_STATE], info[_TCPI_UNACKED], info[_TCPI_SACKED]


class InetDump(KindDump):
    """Dumps internet sockets."""

    late = True

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._connections = ConnectionsDump(context)
        self._udp_shutdowns: dict[int, Mapping[int, int]] = {}

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse connections that are not to be carried, what is neither TCP nor UDP, and what the kernel does not tell."""
        with borrowed(file.local) as sock:
            if _is_tcp(sock):
                yield from self._check_tcp(file, sock)
            elif is_datagram(sock.type, sock.proto):
                yield from check_datagram(file)
            elif not _is_udp(sock):
                name = f"an internet socket of type {int(sock.type)}, protocol {_OTHERS.get(sock.proto, sock.proto)}"
                yield file.obstacle(f"{name}; it is not carried", "have the program close it")
            elif sock.getsockopt(SOL_UDP, UDP_CORK):
                yield file.obstacle("a UDP socket with a datagram half made (UDP_CORK)", "have the program send it")
            if not has_readable_filter(sock):
                yield file.obstacle("an eBPF filter is attached to it, which the kernel does not give out", "have the program detach it")

    def collect(self, description: Description) -> Entry:
        """Return the inet_sk_entry."""
        file = description.file
        with borrowed(file.local) as sock:
            entry = message("inet_sk_entry")(
                id=description.file_id,
                ino=file.stat.st_ino,
                family=sock.family,
                type=sock.type,
                proto=sock.proto,
                flags=file.flags,
                fown=description.fown,
                opts=read_options(sock),
            )
            _read_addresses(sock, entry)
            self._state(file, sock, entry)
            _read_ip_options(sock, entry)
            read_datagram(sock, entry)
            read_inet_options(sock, entry)
            if option_memory(sock):
                entry.stillframe.memberships.extend(read_memberships(sock))
        return entry

    def write(self, images: ImagesDir) -> None:
        """Write the images of the connections."""
        self._connections.write(images)

    def lock_method(self) -> int:
        """Return how connections stay locked."""
        return self._connections.lock_method()

    def keep(self, dump_id: str, pids: Sequence[int]) -> None:
        """Let the connections outlive the tree."""
        self._connections.keep(dump_id, pids)

    def close(self) -> None:
        """Let the connections go on, unless they are kept."""
        self._connections.close()

    def _check_tcp(self, file: OpenFile, sock: socket.socket) -> Iterator[Obstacle]:
        state, waiting, _backlog = _tcp_info(sock)
        if state == TCP_LISTEN and waiting:
            yield from self._check_waiting(file)
        elif is_connection(sock) and sock.proto == IPPROTO_MPTCP:
            yield file.obstacle("a connection of MPTCP, whose paths are not carried", "run the program, or its peer, without MPTCP")
        elif is_connection(sock):
            yield from self._connections.check(file, sock)
            return
        yield from check_keys(self.context, file, sock)

    def _check_waiting(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse connections that wait to be accepted, where they would be lost: who goes on has them still."""
        options, accepted = self.context.options, self.context.accepted
        if accepted is None and options.tcp_established:
            return  # the tree is stopped when nobody waits, if that matters
        stays = options.tcp_established and options.leave_running
        if options.skip_in_flight or stays or (accepted is not None and file.stat.st_ino in accepted):
            what = "connections that wait to be accepted are not carried; their clients must connect again"
            self.context.warn(f"process {file.pid}, {file.where}: {what}" + (", should it be restored" if stays else ""))
        else:
            yield file.obstacle("connections wait to be accepted", "dump it again when they are, or let them go with skip_in_flight")

    def _state(self, file: OpenFile, sock: socket.socket, entry: Entry) -> None:
        entry.backlog, entry.state = 0, TCP_ESTABLISHED if entry.dst_port else TCP_CLOSE
        entry.tcp_opts.SetInParent()
        if _is_tcp(sock):
            entry.state, _waiting, backlog = _tcp_info(sock)
            entry.backlog = backlog if entry.state == TCP_LISTEN else 0
            read_tcp_options(sock, entry)
            if entry.state != TCP_LISTEN and entry.dst_port and not self.context.options.tcp_close:
                entry.state = self._connections.of(file.stat.st_ino).state
            shutdown = _tcp_shutdown(sock, entry.state)
        else:
            if has_unread(file.local):
                self.context.warn(f"process {file.pid}, {file.where}: datagrams that were not read yet are not carried")
            shutdown = self._udp_shutdown(sock, file.stat.st_ino)
        if shutdown:
            entry.shutdown = shutdown

    def _udp_shutdown(self, sock: socket.socket, inode: int) -> int:
        """Return the bits of sk_shutdown; one that has no port is in no table, and can only be shut down for reading to be seen."""
        family = int(sock.family)
        if family not in self._udp_shutdowns:
            self._udp_shutdowns[family] = udp_shutdowns(family)
        found = self._udp_shutdowns[family].get(inode)
        return _polled_shutdown(sock) if found is None else found


def _read_addresses(sock: socket.socket, entry: Entry) -> None:
    own = sock.getsockname()
    peer, entry.dst_port = peer_of(sock)
    packed = socket.inet_pton(sock.family, own[0].partition("%")[0])
    entry.src_port = own[1]
    entry.src_addr.extend(words(sock.family, packed))
    entry.dst_addr.extend(words(sock.family, peer if entry.dst_port else b""))
    if sock.family == socket.AF_INET6:
        entry.v6only = bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        if own[1] and own[3]:
            entry.ifname = socket.if_indextoname(own[3])
    bound = own[1] and (sock.type, sock.proto) in _CARRIED  # what looks like the port of a raw socket is its protocol
    if bound and not sock.getsockopt(*_FREEBIND[sock.family]) and _is_elsewhere(sock, own):
        entry.stillframe.freebind_once = True


def _is_elsewhere(sock: socket.socket, own: tuple[object, ...]) -> bool:
    """Tell whether SOCK is bound to an address that this machine lacks: IP_FREEBIND was set only while it was bound."""
    with socket.socket(sock.family, socket.SOCK_DGRAM) as other:
        try:
            other.bind((own[0], 0, *own[2:]))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return False


def _polled_shutdown(sock: socket.socket) -> int:
    """Return the bits of sk_shutdown, as far as poll(2) tells: not that for writing alone."""
    events = _poll(sock)
    return 3 if events & select.POLLHUP else 1 if events & select.POLLRDHUP else 0


def _tcp_shutdown(sock: socket.socket, state: int) -> int:
    """Return the bits of sk_shutdown; of a closed socket, which polls as hung up in any case, only that for reading, as CRIU does."""
    if state == TCP_CLOSE:
        return 1 if _poll(sock) & select.POLLRDHUP else 0
    return _polled_shutdown(sock) | (2 if state in FIN_SENT else 0)


def _poll(sock: socket.socket) -> int:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return dict(poll.poll(0)).get(sock.fileno(), 0)


def _read_ip_options(sock: socket.socket, entry: Entry) -> None:
    entry.ip_opts.SetInParent()
    for field, level, option in _IP_OPTIONS[socket.AddressFamily(sock.family)]:
        value = option_value(sock, level, option)
        if value:
            setattr(entry.ip_opts, field, value)


class InetRestore(KindRestore):
    """Makes internet sockets: all are bound first, then those that listen do, so that sockets that share an address can."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._connections = ConnectionsRestore(context)

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse what cannot be made, and try whether each address can be bound here."""
        for file_id, entry in entries.items():
            where = f"{_where(entry)} ({self.context.holder(file_id)})"
            if (entry.type, entry.proto) not in _CARRIED and not is_datagram(entry.type, entry.proto) or entry.family not in WORDS:
                yield Obstacle(0, where, "a socket of a protocol that is not carried", "restore it with CRIU")
            elif entry.opts.so_bound_dev and entry.opts.so_bound_dev not in {name for _index, name in socket.if_nameindex()}:
                yield Obstacle(0, where, f"it is bound to interface {entry.opts.so_bound_dev}, which is missing", "make the interface")
            elif is_connection_entry(entry):
                if not self.context.options.tcp_close:
                    yield from self._connections.check(where, entry)
            elif entry.src_port:
                yield from _try_bind(where, entry)
            yield from check_memberships(where, entry)

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        connections = {file_id for file_id, entry in entries.items() if is_connection_entry(entry)}
        closed = connections if self.context.options.tcp_close else set()
        self._connections.lock([entries[file_id] for file_id in sorted(connections)])
        shared = {(entry.proto, entry.src_port) for entry in entries.values() if entry.opts.so_reuseport}
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            try:
                found[file_id] = self.context.keep(self._make(entry, (entry.proto, entry.src_port) in shared).detach())
            except OSError as error:
                what, remedy = (f"{_where(entry)} cannot be made again ({error.strerror or error})", "stop what uses the address")
                raise RestoreError(f"{what}; {remedy}") from error
        for file_id, entry in entries.items():
            if file_id not in closed:
                with borrowed(found[file_id]) as sock:
                    _complete(sock, entry)
        for file_id, entry in entries.items():
            if file_id in connections and file_id not in closed:
                self._connections.built(found[file_id], entry)
            else:
                with borrowed(found[file_id]) as sock:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(entry.opts.reuseaddr))
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(entry.opts.so_reuseport))
            set_flags(found[file_id], entry.flags)
        return found

    def go(self) -> None:
        """Let the connections go on."""
        self._connections.go()

    def _make(self, entry: Entry, shared: bool) -> socket.socket:
        """Return a socket for ENTRY; SHARED: others with its port may have SO_REUSEPORT, which it had as well when it was bound."""
        if not is_connection_entry(entry):
            return _bound(entry, shared)
        return _closed(entry) if self.context.options.tcp_close else self._connections.build(entry)


_CARRIED = (*((socket.SOCK_STREAM, proto) for proto in _TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP))


def _closed(entry: Entry) -> socket.socket:
    """Return a socket in the place of a connection that was let go: it polls as hung up, and reads and writes fail (ENOTCONN, EPIPE)."""
    sock = socket.socket(entry.family, entry.type, entry.proto)
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # it takes effect all the same
            sock.close()
            raise
    return sock


def _where(entry: Entry) -> str:
    name = protocol_name(entry)
    own = host(entry, entry.src_addr)
    return f"{name} address {f'[{own}]' if ':' in own else own}:{entry.src_port}"


def _bound(entry: Entry, shared: bool) -> socket.socket:
    """Return a socket for ENTRY, bound to its address if it has one. OSError when that is taken or not of this machine."""
    sock = socket.socket(entry.family, entry.type, entry.proto)
    try:
        if entry.HasField("v6only") and entry.type != socket.SOCK_RAW:  # raw ones have a number from the start, so it cannot be set
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(entry.v6only))
        # what the ended tree left in TIME_WAIT must not be in the way; for UDP the option would share the port with others
        share = entry.type == socket.SOCK_STREAM or entry.opts.reuseaddr
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(share))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        if entry.ip_opts.freebind or entry.stillframe.freebind_once:
            sock.setsockopt(*_FREEBIND[entry.family], 1)
        if entry.src_port:
            sock.bind(address(entry, entry.src_addr, entry.src_port))
        if entry.stillframe.freebind_once:
            sock.setsockopt(*_FREEBIND[entry.family], 0)
    except OSError:
        sock.close()
        raise
    return sock


def _try_bind(where: str, entry: Entry) -> Iterator[Obstacle]:
    try:
        _bound(entry, entry.opts.so_reuseport).close()
    except OSError as error:
        remedy = "stop what uses it" if error.errno == errno.EADDRINUSE else "give this machine the address"
        yield Obstacle(0, where, f"it cannot be bound ({error.strerror})", remedy)


def _complete(sock: socket.socket, entry: Entry) -> None:
    if entry.state == TCP_LISTEN:
        sock.listen(entry.backlog)
    elif entry.dst_port and not is_connection_entry(entry):
        sock.connect(address(entry, entry.dst_addr, entry.dst_port))
    for field, level, option in _IP_OPTIONS[socket.AddressFamily(entry.family)]:
        if entry.ip_opts.HasField(field):
            sock.setsockopt(level, option, int(getattr(entry.ip_opts, field)))
    restore_datagram(sock, entry)
    restore_options(sock, entry.opts)
    restore_inet_options(sock, entry)
    join_groups(sock, entry)
    if entry.type == socket.SOCK_STREAM and entry.proto in _TCP:
        restore_tcp_options(sock, entry)
    if entry.shutdown:
        try:
            sock.shutdown(entry.shutdown - 1)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it takes effect on a socket that is not connected all the same
                raise


INET_SOCKETS = Kind("INETSK", "isk", is_inet, InetDump, InetRestore)
