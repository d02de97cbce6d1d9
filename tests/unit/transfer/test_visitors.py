# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is let in by a server that waits for one client."""

from __future__ import annotations

import logging
import socket

import pytest
from _engine.errors import TransferError, UsageError
from _engine.transfer import visitors as waiting
from _engine.transfer.visitors import listen, visitors

LOG = logging.getLogger(__name__)


def test_nobody_is_waited_for_forever() -> None:
    with listen("127.0.0.1", 0) as listener:
        silent = socket.create_connection(listener.getsockname())
        with silent, pytest.raises(TransferError, match="no client has come within 0.05 seconds; start the dump"):
            next(visitors(listener, None, 0.05, LOG))


def test_those_who_say_nothing_hold_nobody_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with listen("127.0.0.1", 0) as listener:
        monkeypatch.setattr(waiting, "_WAITING", 2)
        silent = [socket.create_connection(listener.getsockname()) for _one in range(5)]
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"hello")
            coming = visitors(listener, None, 10, LOG)
            connection, name = next(coming)
            assert connection.recv(10) == b"hello" and name == f"127.0.0.1 port {client.getsockname()[1]}"
            connection.close()
            coming.close()  # type: ignore[attr-defined]
        assert "which says nothing" in caplog.text
        for one in silent:
            one.close()


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as listener, pytest.raises(UsageError, match="cannot listen on 127.0.0.1 port .*; choose another"):
        listen("127.0.0.1", listener.getsockname()[1])
