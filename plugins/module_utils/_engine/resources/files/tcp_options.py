# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of TCP sockets (tcp(7)). Images: tcp_opts_entry, and what it has no field for in inet_sk_entry.stillframe."""

from __future__ import annotations

import errno
import socket

from .inet_options import option_value
from .kind import Entry

# include/uapi/linux/tcp.h
TCP_THIN_LINEAR_TIMEOUTS, TCP_FASTOPEN, TCP_NOTSENT_LOWAT, TCP_SAVE_SYN, TCP_FASTOPEN_CONNECT, TCP_INQ = 16, 23, 25, 27, 30, 36

_FLAGS = {"cork": socket.TCP_CORK, "nodelay": socket.TCP_NODELAY}
_KEEPALIVE = {"keepcnt": socket.TCP_KEEPCNT, "keepidle": socket.TCP_KEEPIDLE, "keepintvl": socket.TCP_KEEPINTVL}
_OWN = {
    "user_timeout": socket.TCP_USER_TIMEOUT,
    "defer_accept": socket.TCP_DEFER_ACCEPT,
    "fastopen": TCP_FASTOPEN,
    "linger2": socket.TCP_LINGER2,
    "syncnt": socket.TCP_SYNCNT,
    "notsent_lowat": TCP_NOTSENT_LOWAT,
    "thin_linear_timeouts": TCP_THIN_LINEAR_TIMEOUTS,
    "fastopen_connect": TCP_FASTOPEN_CONNECT,
    "inq": TCP_INQ,
    "save_syn": TCP_SAVE_SYN,
}
"""Kept where they differ from those of a new socket."""
_CONGESTION_NAME = 16


def read_tcp_options(sock: socket.socket, entry: Entry) -> None:
    """Put the options of SOCK into ENTRY, an inet_sk_entry."""
    for field, option in _FLAGS.items():
        if option_value(sock, socket.IPPROTO_TCP, option):
            setattr(entry.tcp_opts, field, True)
    for field, option in _KEEPALIVE.items():
        setattr(entry.tcp_opts, field, sock.getsockopt(socket.IPPROTO_TCP, option))
    with socket.socket(sock.family, socket.SOCK_STREAM) as new:
        for field, option in _OWN.items():
            value = option_value(sock, socket.IPPROTO_TCP, option)
            if value is not None and value != new.getsockopt(socket.IPPROTO_TCP, option):
                setattr(entry.stillframe, field, value)
        if _congestion(sock) != _congestion(new):
            entry.stillframe.congestion = _congestion(sock)


def restore_tcp_options(sock: socket.socket, entry: Entry) -> None:
    """Give SOCK the options of ENTRY. OSError for what may not be set."""
    for field, option in {**_KEEPALIVE, **_FLAGS}.items():
        if entry.tcp_opts.HasField(field):
            sock.setsockopt(socket.IPPROTO_TCP, option, int(getattr(entry.tcp_opts, field)))
    for field, option in _OWN.items():
        if entry.stillframe.HasField(field) and sock.getsockopt(socket.IPPROTO_TCP, option) != getattr(entry.stillframe, field):
            _set(sock, option, getattr(entry.stillframe, field))
    if entry.stillframe.congestion:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, entry.stillframe.congestion.encode())


def _set(sock: socket.socket, option: int, value: int) -> None:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError as error:
        if error.errno != errno.EINVAL or option not in (TCP_FASTOPEN, TCP_FASTOPEN_CONNECT):
            raise  # those two mean nothing any more once a socket is connected, and cannot be set then


def _congestion(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_NAME).rstrip(b"\0").decode("ascii", "replace")
