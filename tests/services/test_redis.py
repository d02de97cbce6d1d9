# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""redis-server with its append-only file on, and a subscriber that stays connected."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service import LAST, TCP_CLOSE, TCP_ESTABLISHED, Service, await_port, free_port, go_through_chain
from victim import PATIENCE, Lab, until


class Redis(Service):
    programs = ("redis-server", "redis-cli", "redis-benchmark")

    def start(self) -> None:
        self.port = free_port()
        self.data = self.folder / "data"
        self.data.mkdir()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self.pid = self.lab.spawn(["redis-server", *options, "--dir", str(self.data)]).pid
        await_port(self.port)
        until(lambda: self.ask("ping") == "PONG", "redis is not ready")
        self.ask("eval", "for i=1,20000 do redis.call('set', 'first:'..i, 'value of '..i) end", "0")
        self.subscriber = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        self.news = self.subscriber.makefile("rb")
        self.subscriber.sendall(b"SUBSCRIBE news\r\n")
        self._expect(b"subscribe", b"news", 1)

    def ask(self, *words: str) -> str:
        """Return what redis-cli answers."""
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout.strip()

    @contextmanager
    def load(self) -> Iterator[None]:
        command = ["redis-benchmark", "-p", str(self.port), "-c", "8", "-l", "-q", "-t", "set,lpush,incr", "-r", "1000", "-d", "200"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as benchmark:
            until(lambda: self.ask("exists", "counter:__rand_int__", "mylist", "key:__rand_int__") != "0" or self._loaded(), "no load")
            try:
                yield
            finally:
                benchmark.kill()

    def _loaded(self) -> bool:
        return int(self.ask("dbsize")) > 20000

    def mark(self, number: int) -> None:
        assert self.ask("set", "number", str(number)) == "OK"
        assert self.ask("set", f"mark:{number}", "here") == "OK"
        assert self.ask("publish", "news", f"dump {number}") == "1"
        self._expect(b"message", b"news", f"dump {number}".encode())

    def check(self, number: int) -> None:
        assert self.ask("get", "number") == str(number)
        assert self.ask("exists", "mark:1", "mark:2", "mark:3") == str(number)
        whole = "local n=0 for i=1,20000 do if redis.call('get','first:'..i)=='value of '..i then n=n+1 end end return n"
        assert self.ask("eval", whole, "0") == "20000"
        if number == LAST and TCP_ESTABLISHED in self.options:
            assert self.ask("publish", "news", "again") == "1"
            self._expect(b"message", b"news", b"again")
        size = self._appended()
        assert self.ask("set", "after", "x" * 1000) == "OK"
        until(lambda: self._appended() > size, "the append-only file does not grow")
        manifest = next((self.data / "appendonlydir").glob("*.manifest"))
        checked = subprocess.run(["redis-check-aof", str(manifest)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout

    def _appended(self) -> int:
        return sum(path.stat().st_size for path in self.data.rglob("*.aof"))

    def _expect(self, *parts: bytes | int) -> None:
        assert self.news.readline() == b"*%d\r\n" % len(parts)
        for part in parts:
            if isinstance(part, int):
                assert self.news.readline() == b":%d\r\n" % part
            else:
                assert self.news.readline() + self.news.readline() == b"$%d\r\n%s\r\n" % (len(part), part)

    def files(self) -> tuple[Path, ...]:
        return (self.data,)


@pytest.mark.parametrize("connections", [TCP_CLOSE, TCP_ESTABLISHED])
def test_redis(lab: Lab, connections: str) -> None:
    service = Redis(lab)
    service.options = (connections,)
    go_through_chain(service)
