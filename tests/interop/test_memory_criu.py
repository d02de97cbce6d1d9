# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guard regions and copy-on-write pages: dumped by CRIU and restored by us, and the other way round.

STILLFRAME_CRIU names a CRIU that runs here; tests/interop/get-criu fetches one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from _engine.check import check  # noqa: E402
from _engine.images.image import ImagesDir  # noqa: E402
from victim import Lab, become_subreaper, children  # noqa: E402
from victims import CRIU, run  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]
DIRECTIONS = pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu")])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    become_subreaper()
    programs = tmp_path / "programs"
    programs.mkdir()
    made = Lab(tmp_path, {"": programs}, children())
    try:
        yield made
    finally:
        made.reap()


def carry(lab: Lab, root: int, dumper: str, restorer: str) -> None:
    """Dump the tree under ROOT by one program, end it, and restore it by the other."""
    images = lab.images("1")
    run(dumper, "dump", images, "--tree", str(root))
    lab.reap()
    run(restorer, "restore", images, "--restore-detached")


@pytest.mark.kind("guard regions")
@DIRECTIONS
def test_guard_regions(lab: Lab, dumper: str, restorer: str) -> None:
    if not check(["pagemap_scan_guard_pages"])[0].ok:
        pytest.skip("this kernel does not tell guard regions")
    victim = lab.start("guards", "unlocked")  # CRIU 4.2 restores none in locked memory
    victim.await_rest()
    carry(lab, victim.pid, dumper, restorer)
    assert victim.ask() == "ok"
    assert victim.ask("change") == "ok"


@pytest.mark.kind("pages shared with the parent")
@DIRECTIONS
def test_copy_on_write_pages(lab: Lab, dumper: str, restorer: str) -> None:
    victim = lab.start("family")
    victim.await_rest()
    carry(lab, victim.pid, dumper, restorer)
    stats = ImagesDir(str(lab.folder / "images" / "1")).read_one("stats-restore").restore
    assert stats.pages_skipped_cow > 4 * 2000
    assert victim.ask() == "ok"
    assert victim.ask("change") == "ok"
