# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors on their way through unix sockets, netlink, packet and raw sockets: dumped by CRIU or us, restored by the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))
from victim import Victim as Asked  # noqa: E402
from victim import read_line  # noqa: E402
from victims import CRIU, ROOT, Victim, restored, run, started  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


class Sockets(Victim):
    """tests/programs/sockets.c, with what CRIU carries too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        program = folder / "sockets"
        subprocess.run(["gcc", "-O1", "-o", str(program), str(ROOT / "tests" / "programs" / "sockets.c")], check=True)
        for pipe in ("ask", "answer"):
            os.mkfifo(folder / pipe)
        self._answers = os.open(folder / "answer", os.O_RDWR | os.O_CLOEXEC)
        self.command = (str(program), str(folder), "shared")

    def await_ready(self) -> None:
        assert read_line(self._answers, self.pid) == "ready"
        os.close(self._answers)

    def check(self, record: object) -> None:
        asked = Asked(self.folder, self.pid)
        assert asked.ask() == "ok"
        assert asked.ask("take") == "ok"


@pytest.mark.kind("unix: descriptors and credentials in flight", "unix: clients that wait", "netlink", "UDP-lite, raw, packet")
@pytest.mark.parametrize(("dumper", "restorer"), [("stillframe", "criu"), ("criu", "stillframe"), ("stillframe", "stillframe")])
def test_sockets_go_both_ways(dumper: str, restorer: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with started(Sockets, tmp_path / "victim") as victim:
        run(dumper, "dump", images, "--tree", str(victim.pid))
        victim.end()
        with restored(restorer, victim, images):
            victim.check(None)
