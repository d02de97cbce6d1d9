# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who connects to a server that waits for one client: most likely that client, but maybe a port scanner, or nobody we know.

A connection counts from its first bytes on. Until then it holds nobody up.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from typing import Dict, Iterator, Optional, Tuple

from ..errors import TransferError, UsageError
from . import tls
from .tls import TlsOptions

LOOPBACK = "127.0.0.1"
_WAITING = 32
"""Connections without a word that are kept; of more, the oldest are closed."""
_ALIVE = ((socket.SO_KEEPALIVE, 1),)
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
"""Seconds, seconds, times: a client whose host is gone is given up after half a minute."""

Visitor = Tuple[socket.socket, str]
"""A connection, and where it comes from."""


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens on ADDRESS and PORT, 0 for a free one. Raises UsageError."""
    try:
        family, _kind, _protocol, _name, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(where[:2], family=family, backlog=_WAITING)
    except OSError as error:
        raise UsageError(f"cannot listen on {address} port {port}: {error.strerror or error}; choose another address or port") from error


def visitors(listener: socket.socket, options: Optional[TlsOptions], timeout: Optional[float], log: logging.Logger) -> Iterator[Visitor]:
    """Yield the connections of LISTENER that have something to say, with TLS those that have shown their certificate.

    Raises TransferError when nobody has come for TIMEOUT seconds, counted anew after each.
    """
    waiting: Dict[int, Visitor] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        try:
            while True:
                ready = _next(selector, listener, waiting, timeout, log)
                visitor = _greet(ready, options, log)
                if visitor is not None:
                    yield visitor
        finally:
            for connection, _name in waiting.values():
                connection.close()


def _next(
    selector: selectors.BaseSelector, listener: socket.socket, waiting: Dict[int, Visitor], timeout: Optional[float], log: logging.Logger
) -> Visitor:
    """Return the next connection that something came from."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        for key, _events in selector.select(None if deadline is None else max(deadline - time.monotonic(), 0)):
            if key.fd != listener.fileno():
                selector.unregister(key.fileobj)
                return waiting.pop(key.fd)
            connection, address = listener.accept()
            waiting[connection.fileno()] = connection, f"{address[0]} port {address[1]}"
            selector.register(connection, selectors.EVENT_READ)
            if len(waiting) > _WAITING:
                silent, name = waiting.pop(next(iter(waiting)))
                selector.unregister(silent)
                silent.close()
                log.warning("Closed the connection from %s, which says nothing", name)
        if deadline is not None and time.monotonic() >= deadline:
            raise TransferError(f"no client has come within {timeout:g} seconds; start the dump while the page server runs")


def _greet(visitor: Visitor, options: Optional[TlsOptions], log: logging.Logger) -> Optional[Visitor]:
    """Return VISITOR, with TLS and authenticated if that is wanted; None, and a line in the log, when it is nobody we know."""
    connection, name = visitor
    try:
        for option, value in _ALIVE:
            connection.setsockopt(socket.SOL_SOCKET, option, value)
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not connection.recv(1, socket.MSG_PEEK):
            log.warning("Connection from %s was closed without a word", name)
            connection.close()
            return None
        return (connection if options is None else tls.secure(connection, options, server_side=True, name=name)), name
    except (TransferError, OSError) as error:
        log.warning("Turned away %s: %s", name, error)
        connection.close()
        return None
