# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP_REPAIR: the state of a TCP connection read out of a socket, and put into a new one (linux/tcp.h, net/ipv4/tcp.c; Linux 4.8).

The packets of the connection must be held back meanwhile. A socket in repair mode that is closed goes without a word to its peer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
import time
from dataclasses import dataclass
from typing import Union

from .fake_segment import ACK, FIN, Segment, send_segment
from .nftables import Flow
from .sock_diag import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_SYN_SENT

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS, TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 19, 20, 21, 22, 24, 29
TCP_REPAIR_ON, TCP_REPAIR_OFF, TCP_REPAIR_OFF_NO_WP = 1, 0, -1
TCP_NO_QUEUE, TCP_RECV_QUEUE, TCP_SEND_QUEUE = 0, 1, 2
TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE = 1, 2, 4
TCPOPT_MAXSEG, TCPOPT_WINDOW, TCPOPT_SACK_PERM, TCPOPT_TIMESTAMP = 2, 3, 4, 8
SIOCOUTQNSD = 0x894B
SO_PEEK_OFF = 42

FIN_SENT = (TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING, TCP_LAST_ACK, TCP_CLOSE)
"""The states in which our end has sent its FIN, which takes a sequence number."""
FIN_RECEIVED = (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING, TCP_CLOSE)
_FIN_ACKNOWLEDGED = (TCP_FIN_WAIT2, TCP_CLOSE)
_SENT_FIRST = (TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING)

_INFO = struct.Struct("=7B")
"""The head of struct tcp_info: state, four others, options, and both window scales in one byte, the one for sending below."""
_WINDOW = struct.Struct("=5I")
_OPTION = struct.Struct("=II")
_INT = struct.Struct("=i")
_SEQUENCE = struct.Struct("=I")
_LARGEST_PIECE, _SMALLEST_PIECE = 1 << 16, 1 << 10
_PATIENCE = 5.0
"""Seconds for a segment to come through the loopback device."""

Address = Union["tuple[str, int]", "tuple[str, int, int, int]"]


@dataclass(frozen=True)
class Window:
    """struct tcp_repair_window."""

    snd_wl1: int
    snd_wnd: int
    max_window: int
    rcv_wnd: int
    rcv_wup: int


@dataclass(frozen=True)
class Connection:
    """One end of a TCP connection."""

    state: int
    options: int
    """TCPI_OPT_… bits."""
    snd_wscale: int
    rcv_wscale: int
    mss: int
    timestamp: int
    inq: bytes
    """Received and not read."""
    inq_seq: int
    """What comes next from the peer; a FIN received is counted."""
    outq: bytes
    """Written and not acknowledged."""
    outq_seq: int
    """What is written next; a FIN is counted."""
    unsent: int
    """How many of the last bytes of `outq` were never sent."""
    window: Window


def set_repair(sock: socket.socket, mode: int) -> None:
    """Set the repair mode of SOCK. It sets SO_REUSEADDR as well. PermissionError without CAP_NET_ADMIN."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, mode)


def in_repair(sock: socket.socket) -> bool:
    """Tell whether SOCK is in repair mode."""
    return bool(sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR))


def take(sock: socket.socket) -> Connection:
    """Return what SOCK holds, which then goes on as before. OSError when that is not possible."""
    reuse, peek_offset = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), _peek_offset(sock)
    set_repair(sock, TCP_REPAIR_ON)
    try:
        if peek_offset >= 0:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, -1)
        return _read(sock)
    finally:
        if peek_offset >= 0:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, peek_offset)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE)
        set_repair(sock, TCP_REPAIR_OFF_NO_WP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)


def _peek_offset(sock: socket.socket) -> int:
    """Return where the program peeks, -1 where it peeks at the head; TCP has had no other place before Linux 6.9."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return -1


def _read(sock: socket.socket) -> Connection:
    info = _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
    state, options, scales = info[0], info[5], info[6] if info[5] & TCPI_OPT_WSCALE else 0
    waiting, written, unsent = (_queued(sock, request) for request in (termios.FIONREAD, termios.TIOCOUTQ, SIOCOUTQNSD))
    if state in FIN_SENT:  # a FIN is counted, but is no data
        written, unsent = max(written - 1, 0), max(unsent - 1, 0)
    if state == TCP_CLOSE:
        written = unsent = 0
    inq_seq, inq = _queue(sock, TCP_RECV_QUEUE, waiting)
    outq_seq, outq = _queue(sock, TCP_SEND_QUEUE, written)
    stamp = sock.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP, _SEQUENCE.size) if options & TCPI_OPT_TIMESTAMPS else bytes(4)
    return Connection(
        state=state,
        options=options,
        snd_wscale=scales & 15,
        rcv_wscale=scales >> 4,
        mss=sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
        timestamp=_SEQUENCE.unpack(stamp)[0],
        inq=inq,
        inq_seq=inq_seq,
        outq=outq,
        outq_seq=outq_seq,
        unsent=unsent,
        window=Window(*_WINDOW.unpack(sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, _WINDOW.size))),
    )


def _queued(sock: socket.socket, request: int) -> int:
    return int(_INT.unpack(fcntl.ioctl(sock.fileno(), request, bytes(_INT.size)))[0])


def _queue(sock: socket.socket, queue: int, length: int) -> tuple[int, bytes]:
    """Return the sequence number at the end of QUEUE, and its content."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
    sequence = _SEQUENCE.unpack(sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, _SEQUENCE.size))[0]
    data = sock.recv(length + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) if length else b""
    if len(data) != length:
        raise OSError(errno.EBADMSG, f"{len(data)} of {length} bytes can be read of a TCP queue; urgent data may be in it")
    return sequence, data


def build(sock: socket.socket, connection: Connection, own: Address, peer: Address, flow: Flow) -> None:
    """Make SOCK, a new one with buffers that are large enough, the end of CONNECTION at OWN; it is left in repair mode
    unless the peer has not answered yet.

    FLOW: what the peer sends. OSError when the kernel refuses it, such as for an address that is in use.
    """
    if connection.state == TCP_SYN_SENT:
        _connect_again(sock, connection, own, peer)
        return
    received, sent = connection.state in FIN_RECEIVED, connection.state in FIN_SENT
    set_repair(sock, TCP_REPAIR_ON)
    sock.bind(own)
    _set_sequence(sock, TCP_RECV_QUEUE, connection.inq_seq - received - len(connection.inq))
    _set_sequence(sock, TCP_SEND_QUEUE, connection.outq_seq - sent - len(connection.outq))
    sock.connect(peer)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, b"".join(_OPTION.pack(*option) for option in _options(connection)))
    if connection.options & TCPI_OPT_TIMESTAMPS:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP, _SEQUENCE.pack(connection.timestamp))
    _fill(sock, TCP_RECV_QUEUE, connection.inq)
    _fill(sock, TCP_SEND_QUEUE, connection.outq[: len(connection.outq) - connection.unsent])
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE)
    if connection.unsent:
        set_repair(sock, TCP_REPAIR_OFF_NO_WP)
        _send(sock, connection.outq[len(connection.outq) - connection.unsent :])
        set_repair(sock, TCP_REPAIR_ON)
    _set_window(sock, connection.window, int(received))
    _close_halves(sock, connection, flow)


def _connect_again(sock: socket.socket, connection: Connection, own: Address, peer: Address) -> None:
    """Have SOCK send its SYN once more, the same one: that it was sent before does not matter then."""
    set_repair(sock, TCP_REPAIR_ON)
    sock.bind(own)
    _set_sequence(sock, TCP_SEND_QUEUE, connection.outq_seq - 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE)
    set_repair(sock, TCP_REPAIR_OFF_NO_WP)
    os.set_blocking(sock.fileno(), False)
    code = sock.connect_ex(peer)
    if code not in (0, errno.EINPROGRESS):
        raise OSError(code, os.strerror(code))


def _options(connection: Connection) -> list[tuple[int, int]]:
    found = [(TCPOPT_MAXSEG, connection.mss)]
    if connection.options & TCPI_OPT_SACK:
        found.append((TCPOPT_SACK_PERM, 0))
    if connection.options & TCPI_OPT_WSCALE:
        found.append((TCPOPT_WINDOW, connection.snd_wscale | connection.rcv_wscale << 16))
    if connection.options & TCPI_OPT_TIMESTAMPS:
        found.append((TCPOPT_TIMESTAMP, 0))
    return found


def _set_sequence(sock: socket.socket, queue: int, sequence: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, _SEQUENCE.pack(sequence & 0xFFFFFFFF))


def _fill(sock: socket.socket, queue: int, data: bytes) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
    _send(sock, data)


def _send(sock: socket.socket, data: bytes) -> None:
    """Send DATA in pieces: in repair mode the kernel wants memory for each in one."""
    left, piece = memoryview(data), _LARGEST_PIECE
    while left:
        try:
            left = left[sock.send(left[:piece], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
        except OSError as error:
            if error.errno != errno.ENOMEM or piece <= _SMALLEST_PIECE:
                raise
            piece //= 2


def _set_window(sock: socket.socket, window: Window, received: int) -> None:
    """Set the windows; RECEIVED is 1 when a FIN has yet to be taken from the one for receiving."""
    packed = _WINDOW.pack(
        window.snd_wl1, window.snd_wnd, window.max_window, window.rcv_wnd + received, (window.rcv_wup - received) & 0xFFFFFFFF
    )
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, packed)


def _close_halves(sock: socket.socket, connection: Connection, flow: Flow) -> None:
    """Bring SOCK, established, into the state of CONNECTION: by shutdown(2), and by the FIN and ACK that its peer had sent."""
    state = connection.state
    received, sent, acknowledged = state in FIN_RECEIVED, state in FIN_SENT, state in _FIN_ACKNOWLEDGED
    incoming = connection.inq_seq - received
    unacknowledged = connection.outq_seq - sent - len(connection.outq)
    window = min(connection.window.snd_wnd >> connection.snd_wscale, 0xFFFF)
    if state in _SENT_FIRST:
        _send_fin(sock, acknowledged)
    if received:
        send_segment(Segment(flow, incoming, unacknowledged, FIN | ACK, window))
        _await_fin(sock)
    if sent and state not in _SENT_FIRST:
        _send_fin(sock, acknowledged)
    if acknowledged:
        send_segment(Segment(flow, incoming + received, unacknowledged + 1, ACK, window))
    _await_state(sock, state)


def _send_fin(sock: socket.socket, silently: bool) -> None:
    """Shut SOCK down for writing; SILENTLY: its FIN counts as sent."""
    queue = TCP_SEND_QUEUE if silently else TCP_NO_QUEUE
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
    sock.shutdown(socket.SHUT_WR)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE)


def _await_fin(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    if not poll.poll(_PATIENCE * 1000):
        raise OSError(errno.ETIMEDOUT, "the FIN of a peer did not come through the loopback device")


def _await_state(sock: socket.socket, state: int) -> None:
    """Wait until SOCK is in STATE; no event tells that an ACK has come."""
    deadline = time.monotonic() + _PATIENCE
    while sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != state:
        if time.monotonic() > deadline:
            found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            raise OSError(errno.EPROTO, f"a TCP connection came into state {found} where {state} was to be restored")
        os.sched_yield()
