# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Python program with asyncio, threads and multiprocessing: semaphores whose files are unlinked, shared by its processes."""

from __future__ import annotations

import sys

from http_service import PROGRAMS, HttpService
from service import go_through_chain
from victim import Lab


class Mixed(HttpService):
    def command(self) -> list[str]:
        return [sys.executable, str(PROGRAMS / "mixed_server.py"), str(self.port)]


def test_python(lab: Lab) -> None:
    go_through_chain(Mixed(lab))
