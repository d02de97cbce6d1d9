# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A server that speaks HTTP: what it is asked by POST /add?N it remembers, and GET /sum tells. Its client checks the sum.

GET /check makes the program look at its own data; it answers "ok" or what is wrong.
"""

from __future__ import annotations

import http.client
from contextlib import contextmanager
from pathlib import Path

from service import ROUND, TCP_CLOSE, Service, await_port, free_port, hammering
from victim import PATIENCE

PROGRAMS = Path(__file__).parent / "programs"


class HttpService(Service):
    options = (TCP_CLOSE,)

    def command(self) -> list[str]:
        """Return the command that starts it; it listens on `port`."""
        raise NotImplementedError

    def start(self) -> None:
        self.port = free_port()
        with open(self.folder / "errors", "wb") as errors:
            self.pid = self.lab.spawn(self.command(), stderr=errors).pid
        await_port(self.port)
        assert self.ask("GET", "/check") == "ok"

    def ask(self, method: str, path: str, patience: float = PATIENCE) -> str:
        """Return the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read().decode()
        except http.client.HTTPException as lost:
            raise ConnectionResetError("the server is gone") from lost
        finally:
            connection.close()
        assert answer.status == 200, body
        return body

    def load(self) -> contextmanager[None]:  # type: ignore[valid-type]
        return hammering(*[self._hammer] * 3)

    def _hammer(self) -> None:
        assert self.ask("GET", "/work", ROUND) == "done"

    def mark(self, number: int) -> None:
        self.ask("POST", f"/add?{10**number}")

    def check(self, number: int) -> None:
        assert self.ask("GET", "/sum") == str(sum(10**one for one in range(1, number + 1)))
        assert self.ask("GET", "/check") == "ok"
        with self.load():
            assert self.ask("POST", "/add?1") == "ok"
        assert self.ask("GET", "/check") == "ok"
