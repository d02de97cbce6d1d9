# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""memcached: threads that share epolls and pipes, and its own clock."""

from __future__ import annotations

import itertools
import socket
from contextlib import contextmanager

import pytest

from service import ROUND, TCP_CLOSE, TCP_ESTABLISHED, Service, await_port, free_port, go_through_chain, hammering
from victim import PATIENCE, Lab

KEYS = 500


class Client:
    """Speaks the text protocol."""

    def __init__(self, port: int, patience: float = PATIENCE) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), patience)
        self._stream = self._socket.makefile("rwb")

    def set(self, key: str, value: str) -> None:
        assert self._ask(f"set {key} 0 0 {len(value)}\r\n{value}\r\n") == "STORED"

    def get(self, key: str) -> str | None:
        head = self._ask(f"get {key}\r\n")
        if head == "END":
            return None
        value = self._line()
        assert head.startswith(f"VALUE {key} 0 ") and self._line() == "END"
        return value

    def _ask(self, question: str) -> str:
        self._stream.write(question.encode())
        self._stream.flush()
        return self._line()

    def _line(self) -> str:
        line = self._stream.readline()
        if not line:
            raise EOFError("the server has closed the connection")
        return str(line.decode().rstrip("\r\n"))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Memcached(Service):
    programs = ("memcached",)

    def start(self) -> None:
        self.port = free_port()
        self.pid = self.lab.spawn(["memcached", "-u", "nobody", "-t", "4", "-l", "127.0.0.1", "-p", str(self.port)]).pid
        await_port(self.port)
        self.kept = Client(self.port)
        for key in range(KEYS):
            self.kept.set(f"first-{key}", f"value of {key}")

    def load(self) -> contextmanager[None]:  # type: ignore[valid-type]
        return hammering(*[self._hammer] * 3)

    def _hammer(self) -> None:
        client = Client(self.port, ROUND)
        try:
            for number in itertools.count():
                client.set(f"load-{number % KEYS}", "x" * (number % 1000))
                if number == 200:
                    return
                found = client.get(f"load-{number % KEYS}")
                assert found is not None and not found.strip("x")
        finally:
            client.close()

    def mark(self, number: int) -> None:
        client = Client(self.port)
        client.set("number", str(number))
        client.set(f"mark-{number}", "here")
        client.close()

    def check(self, number: int) -> None:
        if number == 3 and TCP_ESTABLISHED in self.options:
            assert self.kept.get("number") == str(number)
        client = Client(self.port)
        assert [client.get(f"first-{key}") for key in range(KEYS)] == [f"value of {key}" for key in range(KEYS)]
        assert client.get("number") == str(number)
        assert [client.get(f"mark-{one}") for one in (1, 2, 3)] == ["here"] * number + [None] * (3 - number)
        client.close()
        with hammering(*[self._hammer] * 3):
            pass


@pytest.mark.parametrize("connections", [TCP_CLOSE, TCP_ESTABLISHED])
def test_memcached(lab: Lab, connections: str) -> None:
    service = Memcached(lab)
    service.options = (connections,)
    go_through_chain(service)
