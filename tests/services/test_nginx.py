# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""nginx: a master with its workers, a cache in shared memory, and keep-alive connections."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from service import LAST, ROUND, TCP_CLOSE, TCP_ESTABLISHED, Service, await_port, free_port, go_through_chain, hammering
from victim import PATIENCE, Lab, until

CONFIGURATION = """
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    limit_req_zone $binary_remote_addr zone=one:1m rate=100000r/s;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port};
        limit_req zone=one burst=100000;
        root {folder}/www;
    }}
}}
"""


class Nginx(Service):
    programs = ("nginx",)

    def start(self) -> None:
        self.port = free_port()
        www = self.folder / "www"
        www.mkdir()
        self.content = os.urandom(300000)
        (www / "file").write_bytes(self.content)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=self.folder, port=self.port))
        self.pid = self.lab.spawn(["nginx", "-c", str(configuration), "-g", "daemon off;"]).pid
        await_port(self.port)
        until(lambda: len(self._workers()) == 2, "nginx has not two workers")
        self.kept = [http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE) for _number in range(4)]
        for connection in self.kept:
            self.fetch(connection)

    def fetch(self, connection: http.client.HTTPConnection) -> None:
        """Fetch the file and compare it."""
        connection.request("GET", "/file")
        answer = connection.getresponse()
        try:
            content = answer.read()
        except http.client.IncompleteRead as lost:
            raise ConnectionResetError("the server is gone") from lost
        assert answer.status == 200 and hashlib.sha256(content).digest() == hashlib.sha256(self.content).digest()

    def load(self) -> contextmanager[None]:  # type: ignore[valid-type]
        return hammering(*[self._hammer] * 3)

    def _hammer(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ROUND)
        try:
            for _round in range(20):
                self.fetch(connection)
        finally:
            connection.close()

    def check(self, number: int) -> None:
        if number == LAST and TCP_ESTABLISHED in self.options:
            for connection in self.kept:
                self.fetch(connection)
        self._hammer()
        log = (self.folder / "access.log").stat().st_size
        self._hammer()
        until(lambda: (self.folder / "access.log").stat().st_size > log, "nothing is logged")
        self._reload()
        self._hammer()

    def _reload(self) -> None:
        """Have the master start new workers: it still reads its configuration, and hears when the old ones end."""
        old = self._workers()
        os.kill(self.pid, signal.SIGHUP)
        until(lambda: len(self._workers()) == 2 and not old & self._workers(), "the master has not replaced its workers")

    def _workers(self) -> set[str]:
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())

    def files(self) -> tuple[Path, ...]:
        return (self.folder / "access.log",)


@pytest.mark.parametrize("connections", [TCP_CLOSE, TCP_ESTABLISHED])
def test_nginx(lab: Lab, connections: str) -> None:
    service = Nginx(lab)
    service.options = (connections,)
    go_through_chain(service)
