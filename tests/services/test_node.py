# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Node.js server: epoll, eventfds, worker threads, a thread pool, compiled code and the protections of its memory."""

from __future__ import annotations

from http_service import PROGRAMS, HttpService
from service import go_through_chain
from victim import Lab


class Node(HttpService):
    programs = ("node",)

    def command(self) -> list[str]:
        return ["node", str(PROGRAMS / "server.js"), str(self.port)]


def test_node(lab: Lab) -> None:
    go_through_chain(Node(lab))
