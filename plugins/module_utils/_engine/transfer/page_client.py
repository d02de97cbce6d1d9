# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The side of a dump: pages on their way to a page server, CRIU's or ours."""

from __future__ import annotations

import os
import socket
import ssl
import uuid
from contextlib import contextmanager
from typing import FrozenSet, Iterator, Optional, Sequence

from ..errors import TransferError, UsageError
from ..images.chain import Chain
from ..options import PageServerOptions
from . import page_protocol, tls
from .page_protocol import Request

_TIMEOUT = 30.0
"""Seconds that a page server may take to answer, or to take anything in: longer, and it counts as gone, for a tree may stand still."""


class PageClient:
    """A connection to a page server, as a context. It is open before the tree is touched."""

    def __init__(self, options: PageServerOptions, pids: Sequence[int], parent: Optional[Chain]) -> None:
        self.dump_id = str(uuid.uuid4())
        self.pids_in_parent: FrozenSet[int] = frozenset()
        """The processes of which the server holds the pages that the parent dump has."""
        self._options = options
        self._pids = pids
        self._parent = parent
        self._connection: Optional[socket.socket] = None

    def __enter__(self) -> PageClient:
        """Connect, and ask what the server has of the parent. Raises TransferError, UsageError."""
        self._connection = _connect(self._options)
        try:
            self._connection.settimeout(_TIMEOUT)
            self._ask()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def _ask(self) -> None:
        if self._parent is None:
            return
        found = []
        for pid in filter(self._parent.top.covered, self._pids):
            request = Request(page_protocol.PS_IOV_PARENT, f"pagemap-{pid}", dump_id=self._parent.dump_id)
            (answer,) = page_protocol.PARENT_ANSWER.unpack(self._call(request, page_protocol.PARENT_ANSWER.size))
            found += [pid] if answer > 0 else []
        self.pids_in_parent = frozenset(found)

    def open(self, image: str) -> bool:
        """Begin with IMAGE, a pagemap; return whether the server has it in the parent. Raises TransferError."""
        return self._call(Request(page_protocol.PS_IOV_OPEN2, image, dump_id=self.dump_id), 1) != b"\0"

    def leave(self, image: str, start: int, pages: int) -> None:
        """Leave the PAGES from START to the parent. Raises TransferError."""
        self._send(page_protocol.encode(Request(page_protocol.PS_IOV_ADD_F, image, start, pages, True)), more=True)

    def add(self, image: str, start: int, pages: int, data: memoryview) -> None:
        """Send the PAGES from START, whose content is DATA. Raises TransferError."""
        self._send(page_protocol.encode(Request(page_protocol.PS_IOV_ADD_F, image, start, pages)), more=True)
        self._send(data)

    def finish(self) -> None:
        """Return when the server has all of it safe. Raises TransferError."""
        command = page_protocol.PS_IOV_FORCE_CLOSE if self._options.socket >= 0 else page_protocol.PS_IOV_CLOSE
        (status,) = page_protocol.STATUS.unpack(self._call(Request(command), page_protocol.STATUS.size))
        if status:
            raise TransferError(f"the page server at {self._options} failed with {status}; its log tells why")
        self._socket().close()

    def _call(self, request: Request, size: int) -> bytes:
        self._send(page_protocol.encode(request))
        answer = b""
        with self._telling():
            while len(answer) < size:
                part = self._socket().recv(size - len(answer))
                if not part:
                    raise ConnectionResetError("it has closed the connection")
                answer += part
        return answer

    def _send(self, data: memoryview | bytes, more: bool = False) -> None:
        connection = self._socket()
        with self._telling():
            connection.sendall(data, 0 if isinstance(connection, ssl.SSLSocket) or not more else socket.MSG_MORE)

    def _socket(self) -> socket.socket:
        if self._connection is None:
            raise TransferError("there is no connection to a page server; this is a fault of the caller")
        return self._connection

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = "it does not take our certificate" if tls.refused(error) else error.strerror or error
            raise TransferError(f"the page server at {self._options} took no more ({why}); its log tells why") from error


def _connect(options: PageServerOptions) -> socket.socket:
    """Return a connection as OPTIONS say. A descriptor that was given is left open. Raises TransferError, UsageError."""
    if options.socket >= 0:
        try:
            return socket.socket(fileno=os.dup(options.socket))
        except OSError as error:
            raise UsageError(f"descriptor {options.socket} is no socket ({error.strerror}); connect one to a page server") from error
    if options.tls is not None:
        return tls.connect(options.address, options.port, options.tls)
    try:
        connection = socket.create_connection((options.address, options.port), _TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    except OSError as error:
        raise TransferError(f"cannot connect to {options}: {error}; start a page server there") from error
