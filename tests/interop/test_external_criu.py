# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""External resources: left out of a dump by CRIU or us, and given to the other at the restore."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_external import Talker, give_terminal, start, talk, writer  # noqa: E402
from victim import Lab, become_subreaper, children  # noqa: E402
from victims import CRIU, PROGRAMS, run  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    become_subreaper()
    made = Lab(tmp_path, {}, children())
    try:
        yield made
    finally:
        made.reap()


@pytest.fixture
def talker(lab: Lab) -> Iterator[Talker]:
    yield from start(lab)


@pytest.mark.kind("external resources")
@pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu")])
def test_external_resources_go_both_ways(lab: Lab, talker: Talker, dumper: str, restorer: str) -> None:
    images = lab.images("1")
    run(dumper, "dump", images, "--tree", str(talker.pid), *talker.external)
    lab.reap()
    (lab.folder / "new").write_text("of a new file")
    options = ["--images-dir", str(images), "--restore-detached", "--log-file", "restore.log", "-v4"]
    talk(talker, [*PROGRAMS[restorer], "restore", *options], lab.folder / "new")


@pytest.mark.kind("external resources")
@pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu")])
def test_a_terminal_of_others_goes_both_ways(lab: Lab, dumper: str, restorer: str) -> None:
    images = lab.images("1")
    with writer(lab) as (pid, terminal):
        run(dumper, "dump", images, "--tree", str(pid), "--external", terminal)
    lab.reap()
    options = ["--images-dir", str(images), "--restore-detached", "--log-file", "restore.log", "-v4"]
    give_terminal(pid, terminal, [*PROGRAMS[restorer], "restore", *options])
