# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks, watches, descriptors of processes and unlinked files (tests/programs/open_files.c), from CRIU to us and from us to CRIU."""

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
from victims import CRIU, ROOT, Victim, restored, run  # noqa: E402

OPTIONS = {"locks": ("--file-locks",), "watches": (), "processes": (), "unlinked": (), "linked": ("--link-remap",)}
KINDS = {
    "locks": ("locks, leases",),
    "watches": ("inotify", "fanotify"),
    "processes": ("pidfd",),
    "unlinked": ("unlinked files",),
    "linked": ("link_remap",),
}
"""Their names in tests/interop/kinds.py."""
LOST = ("watch 4:", "break_signals")
"""CRIU breaks a lease with a second signal, leaves the events that it has caused itself, and loses the watch of an unlinked file."""
DIRECTIONS = [("criu", "stillframe"), ("stillframe", "criu")]
pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


class OpenFiles(Victim):
    """tests/programs/open_files.c with one of its kinds."""

    def __init__(self, folder: Path, program: Path, kind: str) -> None:
        super().__init__(folder)
        self.command = (str(program), str(folder), kind)
        for pipe in ("ask", "answer"):
            os.mkfifo(folder / pipe)
        self._answers = os.open(folder / "answer", os.O_RDWR)

    def await_ready(self) -> None:
        assert read_line(self._answers, self.pid) == "ready"
        os.close(self._answers)

    def check(self, record: object) -> None:
        """RECORD: who restored it. What CRIU 4.2 does not keep of its own dumps either is passed over: see LOST."""
        asked = Asked(self.folder, self.pid)
        if record == "criu":
            assert asked.ask("drain") == "ok"
        problems = [problem for problem in asked.ask().split("; ") if record != "criu" or not any(word in problem for word in LOST)]
        assert problems in (["ok"], [""]), problems


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled victim."""
    path = tmp_path_factory.mktemp("programs") / "open_files"
    source = ROOT / "tests" / "programs" / "open_files.c"
    subprocess.run(["gcc", "-O1", "-pthread", "-o", str(path), str(source)], check=True, stdin=subprocess.DEVNULL)
    return path


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.kind(*KINDS[kind])) for kind in OPTIONS])
@pytest.mark.parametrize(("dumper", "restorer"), DIRECTIONS)
def test_open_files_go_both_ways(tmp_path: Path, program: Path, kind: str, dumper: str, restorer: str) -> None:
    (tmp_path / "victim").mkdir()
    victim = OpenFiles(tmp_path / "victim", program, kind)
    victim.start()
    try:
        victim.check(None)
        (tmp_path / "images").mkdir()
        run(dumper, "dump", tmp_path / "images", "--tree", str(victim.pid), *OPTIONS[kind])
        victim.end()
        options = OPTIONS[kind] if kind == "locks" else ()
        with restored(restorer, victim, tmp_path / "images", *options):
            victim.check(restorer)
    finally:
        victim.end()
