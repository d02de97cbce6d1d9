# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP sockets that listen or are not connected, and UDP sockets, over IPv4 and IPv6.

images: files.img (inet_sk_entry with sk_opts_entry, ip_opts_entry and tcp_opts_entry).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping

from ...errors import Obstacle, RestoreError
from ...images.schema import message
from ...kernel.sock_diag import TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN
from .inet_datagram import check_datagram, has_unread, is_datagram, protocol_name, read_datagram, restore_datagram
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile
from .socket_options import borrowed, domain, has_readable_filter, read_options, restore_options
from .status import set_flags

IP_FREEBIND = 15
IP_PKTINFO = 8
IPV6_FREEBIND = 78
UDP_CORK = 1
SOL_UDP = 17
TCP_FASTOPEN = 23
TCP_STATES = (
    "NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING NEW_SYN_RECV".split()
)
"""net/tcp_states.h, by number."""

_TCP_INFO = struct.Struct("=8B6I")
"""The head of struct tcp_info (linux/tcp.h); when listening, unacked is the queue and sacked the backlog."""
_TCPI_STATE, _TCPI_UNACKED, _TCPI_SACKED = 0, 12, 13
_WORDS = {socket.AF_INET: struct.Struct("=I"), socket.AF_INET6: struct.Struct("=4I")}
_IP_OPTIONS = {
    socket.AF_INET: (
        ("freebind", socket.IPPROTO_IP, IP_FREEBIND),
        ("pktinfo", socket.IPPROTO_IP, IP_PKTINFO),
        ("tos", socket.IPPROTO_IP, socket.IP_TOS),
        ("ttl", socket.IPPROTO_IP, socket.IP_TTL),
    ),
    socket.AF_INET6: (
        ("freebind", socket.IPPROTO_IPV6, IPV6_FREEBIND),
        ("pktinfo", socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
    ),
}
_TCP_OPTIONS = {"cork": socket.TCP_CORK, "nodelay": socket.TCP_NODELAY}
_TCP_KEEPALIVE = {"keepcnt": socket.TCP_KEEPCNT, "keepidle": socket.TCP_KEEPIDLE, "keepintvl": socket.TCP_KEEPINTVL}
_TCP_NOT_CARRIED = {
    "TCP_FASTOPEN": TCP_FASTOPEN,
    "TCP_DEFER_ACCEPT": socket.TCP_DEFER_ACCEPT,
    "TCP_USER_TIMEOUT": socket.TCP_USER_TIMEOUT,
}


def is_inet(file: OpenFile) -> bool:
    """Tell whether FILE is an IPv4 or IPv6 socket."""
    return file.link.startswith("socket:[") and domain(file.local) in (socket.AF_INET, socket.AF_INET6)


def _is_tcp(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_STREAM and sock.proto == socket.IPPROTO_TCP


def _is_udp(sock: socket.socket) -> bool:
    return sock.type == socket.SOCK_DGRAM and sock.proto == socket.IPPROTO_UDP


def _tcp_info(sock: socket.socket) -> tuple[int, int, int]:
    """Return state, length of the queue of connections, and backlog."""
    info = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    return info[_TCPI_STATE], info[_TCPI_UNACKED], info[_TCPI_SACKED]


def _peer(sock: socket.socket) -> tuple[str, int]:
    """Return the address that SOCK is connected to, ("", 0) when it is not."""
    try:
        host, port = sock.getpeername()[:2]
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.EINVAL):  # EINVAL: it was shut down
            raise
        return "", 0
    return host, port


class InetDump(KindDump):
    """Dumps internet sockets."""

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse connections, what is neither TCP nor UDP, and what the kernel does not tell."""
        with borrowed(file.local) as sock:
            if _is_tcp(sock):
                yield from self._check_tcp(file, sock)
            elif is_datagram(sock.type, sock.proto):
                yield from check_datagram(file)
            elif not _is_udp(sock):
                name = f"an internet socket of type {int(sock.type)}, protocol {sock.proto}"
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
            self._addresses(sock, entry)
            self._state(file, sock, entry)
            _read_ip_options(sock, entry)
            read_datagram(sock, entry)
        return entry

    def _check_tcp(self, file: OpenFile, sock: socket.socket) -> Iterator[Obstacle]:
        state, waiting, _backlog = _tcp_info(sock)
        if state == TCP_LISTEN:
            self._warn_listening(file, sock, waiting)
        elif state != TCP_CLOSE:
            host, port = _peer(sock)
            what = f"a TCP connection ({TCP_STATES[state]}) with {host or 'nobody any more'} port {port}"
            if self.context.options.tcp_close:
                self.context.warn(f"process {file.pid}, {file.where}: {what} is not carried; it is closed once restored")
            else:
                yield file.obstacle(f"{what}; connections are not carried yet", "wait until it ends, or let it go with tcp_close")

    def _warn_listening(self, file: OpenFile, sock: socket.socket, waiting: int) -> None:
        who = f"process {file.pid}, {file.where}"
        if waiting:
            self.context.warn(f"{who}: connections that wait to be accepted are not carried; their clients must connect again")
        for name, option in _TCP_NOT_CARRIED.items():
            if sock.getsockopt(socket.IPPROTO_TCP, option):
                self.context.warn(f"{who}: the images have no place for {name}; it has its default once restored")

    def _addresses(self, sock: socket.socket, entry: Entry) -> None:
        words, own = _WORDS[sock.family], sock.getsockname()
        host, entry.dst_port = _peer(sock)
        entry.src_port = own[1]
        entry.src_addr.extend(words.unpack(socket.inet_pton(sock.family, own[0].partition("%")[0])))
        entry.dst_addr.extend(words.unpack(socket.inet_pton(sock.family, host.partition("%")[0]) if host else bytes(words.size)))
        if sock.family == socket.AF_INET6:
            entry.v6only = bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
            if own[1] and own[3]:
                entry.ifname = socket.if_indextoname(own[3])

    def _state(self, file: OpenFile, sock: socket.socket, entry: Entry) -> None:
        entry.backlog, entry.state = 0, TCP_ESTABLISHED if entry.dst_port else TCP_CLOSE
        entry.tcp_opts.SetInParent()
        if _is_tcp(sock):
            entry.state, _waiting, backlog = _tcp_info(sock)
            entry.backlog = backlog if entry.state == TCP_LISTEN else 0
            for field, option in _TCP_OPTIONS.items():
                if sock.getsockopt(socket.IPPROTO_TCP, option):
                    setattr(entry.tcp_opts, field, True)
            for field, option in _TCP_KEEPALIVE.items():
                setattr(entry.tcp_opts, field, sock.getsockopt(socket.IPPROTO_TCP, option))
        elif has_unread(file.local):
            self.context.warn(f"process {file.pid}, {file.where}: datagrams that were not read yet are not carried")
        shutdown = _shutdown(sock, entry.state)
        if shutdown:
            entry.shutdown = shutdown


def _shutdown(sock: socket.socket, state: int) -> int:
    """Return which directions are shut down, as the bits of sk_shutdown; only poll(2) tells."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    events = dict(poll.poll(0)).get(sock.fileno(), 0)
    read = 1 if events & select.POLLRDHUP else 0
    closed_tcp = sock.type == socket.SOCK_STREAM and state == TCP_CLOSE  # polls as hung up in any case
    return 3 if events & select.POLLHUP and not closed_tcp else read


def _read_ip_options(sock: socket.socket, entry: Entry) -> None:
    entry.ip_opts.SetInParent()
    for field, level, option in _IP_OPTIONS[socket.AddressFamily(sock.family)]:
        value = sock.getsockopt(level, option)
        if value:
            setattr(entry.ip_opts, field, value)


class InetRestore(KindRestore):
    """Makes internet sockets: all are bound first, then those that listen do, so that sockets that share an address can."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse connections and try whether each address can be bound here."""
        for file_id, entry in entries.items():
            where = f"{_where(entry)} ({self.context.holder(file_id)})"
            if _is_connection(entry):
                if not self.context.options.tcp_close:
                    what = "a TCP connection; connections are not restored yet"
                    yield Obstacle(0, where, what, "let it go with tcp_close, or restore it with CRIU")
            elif (entry.type, entry.proto) not in _CARRIED and not is_datagram(entry.type, entry.proto) or entry.family not in _WORDS:
                yield Obstacle(0, where, "a socket of a protocol that is not carried", "restore it with CRIU")
            elif entry.opts.so_bound_dev and entry.opts.so_bound_dev not in {name for _index, name in socket.if_nameindex()}:
                yield Obstacle(0, where, f"it is bound to interface {entry.opts.so_bound_dev}, which is missing", "make the interface")
            elif entry.src_port:
                yield from _try_bind(where, entry)

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            try:
                sock = _closed(entry) if _is_connection(entry) else _bound(entry)
                found[file_id] = self.context.keep(sock.detach())
            except OSError as error:
                raise RestoreError(f"{_where(entry)} cannot be bound ({error.strerror}); stop what uses the address") from error
        for file_id, entry in entries.items():
            if not _is_connection(entry):
                with borrowed(found[file_id]) as sock:
                    _complete(sock, entry)
        for file_id, entry in entries.items():
            with borrowed(found[file_id]) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(entry.opts.reuseaddr))
            set_flags(found[file_id], entry.flags)
        return found


_CARRIED = ((socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP))


def _is_connection(entry: Entry) -> bool:
    return entry.type == socket.SOCK_STREAM and entry.state not in (TCP_LISTEN, TCP_CLOSE)


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
    host = _host(entry, entry.src_addr)
    return f"{name} address {f'[{host}]' if ':' in host else host}:{entry.src_port}"


def _host(entry: Entry, words: Iterable[int]) -> str:
    """Return an address as text; images of the first CRIU hold four words for IPv4 too."""
    layout = _WORDS[socket.AddressFamily(entry.family)]
    return socket.inet_ntop(entry.family, b"".join(struct.pack("=I", word) for word in words)[: layout.size])


def _address(entry: Entry, words: Iterable[int], port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    host = _host(entry, words)
    if entry.family == socket.AF_INET:
        return host, port
    return host, port, 0, socket.if_nametoindex(entry.ifname) if entry.ifname else 0


def _bound(entry: Entry) -> socket.socket:
    """Return a socket for ENTRY, bound to its address if it has one. OSError when that is taken or not of this machine."""
    sock = socket.socket(entry.family, entry.type, entry.proto)
    try:
        if entry.HasField("v6only") and entry.type != socket.SOCK_RAW:  # raw ones have a number from the start, so it cannot be set
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(entry.v6only))
        # what the ended tree left in TIME_WAIT must not be in the way; for UDP the option would share the port with others
        share = entry.type == socket.SOCK_STREAM or entry.opts.reuseaddr
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(share))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(entry.opts.so_reuseport))
        if entry.ip_opts.freebind:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # serves IPv6 sockets too
        if entry.src_port:
            sock.bind(_address(entry, entry.src_addr, entry.src_port))
    except OSError:
        sock.close()
        raise
    return sock


def _try_bind(where: str, entry: Entry) -> Iterator[Obstacle]:
    try:
        _bound(entry).close()
    except OSError as error:
        remedy = "stop what uses it" if error.errno == errno.EADDRINUSE else "give this machine the address"
        yield Obstacle(0, where, f"it cannot be bound ({error.strerror})", remedy)


def _complete(sock: socket.socket, entry: Entry) -> None:
    if entry.state == TCP_LISTEN:
        sock.listen(entry.backlog)
    elif entry.dst_port:
        sock.connect(_address(entry, entry.dst_addr, entry.dst_port))
    for field, level, option in _IP_OPTIONS[socket.AddressFamily(entry.family)]:
        if entry.ip_opts.HasField(field):
            sock.setsockopt(level, option, int(getattr(entry.ip_opts, field)))
    restore_datagram(sock, entry)
    restore_options(sock, entry.opts)
    for field, option in {**_TCP_OPTIONS, **_TCP_KEEPALIVE}.items():
        if entry.tcp_opts.HasField(field) and entry.proto == socket.IPPROTO_TCP:
            sock.setsockopt(socket.IPPROTO_TCP, option, int(getattr(entry.tcp_opts, field)))
    if entry.shutdown:
        try:
            sock.shutdown(entry.shutdown - 1)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # it takes effect on a socket that is not connected all the same
                raise


INET_SOCKETS = Kind("INETSK", "isk", is_inet, InetDump, InetRestore)
