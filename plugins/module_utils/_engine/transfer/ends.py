# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The connections of a move over TCP: made as often as they are needed, and with TLS between ends that know each other."""

from __future__ import annotations

import logging
import socket
from typing import Optional

from ..errors import TransferError
from ..options import Connect
from . import tls
from .tls import TlsOptions
from .visitors import visitors


def connector(address: str, port: int, options: Optional[TlsOptions]) -> Connect:
    """Return what connects to the receiver that listens on ADDRESS and PORT."""

    def connect(timeout: float) -> socket.socket:
        if options is None:
            return socket.create_connection((address, port), timeout)
        try:
            return tls.connect(address, port, options, timeout)
        except TransferError as error:
            raise ConnectionError(str(error)) from error

    return connect


def acceptor(listener: socket.socket, options: Optional[TlsOptions], log: logging.Logger) -> Connect:
    """Return what takes the next connection of LISTENER; who is not known is turned away, with a line in LOG."""

    def accept(timeout: float) -> socket.socket:
        try:
            return next(visitors(listener, options, timeout, log))[0]
        except TransferError as error:
            raise TimeoutError(str(error)) from error

    return accept
