# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Terminals, dumped by one and restored by the other: a pair with data both ways, a session that is controlled by another.

STILLFRAME_CRIU names a CRIU that runs here; tests/interop/get-criu fetches one.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from victims import CRIU, ROOT, Victim, restored, run, started  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


class Terminals(Victim):
    """tests/programs/terminals.py."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.command = (sys.executable, "-I", str(ROOT / "tests" / "programs" / "terminals.py"), str(folder), "common")
        for pipe in ("ask", "answer"):
            os.mkfifo(folder / pipe)
        self._asks, self._answers = (os.open(folder / pipe, os.O_RDWR | os.O_CLOEXEC) for pipe in ("ask", "answer"))

    def await_ready(self) -> None:
        assert self._answer() == "ready\n"

    def check(self, record: Any) -> None:
        for question in (b"look", b"read"):
            os.write(self._asks, question)
            assert self._answer() == "ok\n"

    def _answer(self) -> str:
        ready, _writable, _failed = select.select([self._answers], [], [], 60)
        return os.read(self._answers, 1 << 16).decode() if ready else "no answer"


@pytest.mark.kind("terminals")
@pytest.mark.parametrize(("dumper", "restorer"), [("stillframe", "criu"), ("criu", "stillframe")])
def test_terminals_go_both_ways(dumper: str, restorer: str, tmp_path: Path) -> None:
    images = tmp_path / "1"
    images.mkdir()
    with started(Terminals, tmp_path / "victim") as victim:
        run(dumper, "dump", images, "--tree", str(victim.pid))
        victim.end()
        for program in (restorer, dumper):
            with restored(program, victim, images):
                victim.check(None)
