# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections that are being opened while they are dumped: whoever waits for them gets them once restored."""

from __future__ import annotations

import sys

import pytest

from victim import PROGRAMS, Lab, until

sys.path.insert(0, str(PROGRAMS))
from connecting import crowded, is_connecting


@pytest.mark.parametrize("way", ["waits", "polls"])
def test_a_connection_is_opened_after_the_restore(lab: Lab, way: str) -> None:
    with crowded() as (server, first):
        own, answer = lab.folder / "own", lab.folder / "answer"
        pid = lab.spawn([sys.executable, str(PROGRAMS / "connecting.py"), str(lab.folder), str(server.getsockname()[1]), way]).pid
        until(lambda: own.exists() and own.read_text() != "" and is_connecting(int(own.read_text())), "it does not connect")
        lab.dump(pid, "1", "--leave-running", "--tcp-established")
        assert is_connecting(int(own.read_text()))
        path = lab.dump(pid, "2", "--tcp-established")
        lab.reap()
        lab.restore(path, "--tcp-established")
        assert server.accept()[0].getpeername() == first.getsockname()
        server.settimeout(30)
        client, address = server.accept()
        assert address[1] == int(own.read_text())
        client.settimeout(30)
        assert client.recv(100) == b"hello"
        client.send(b"welcome")
        until(lambda: answer.exists() and answer.read_bytes() == b"welcome", "no answer comes")
        client.close()
