# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump of CRIU's: we restore it, and go on from it with incremental dumps, which both restore.

STILLFRAME_CRIU names a CRIU that runs here; tests/interop/get-criu fetches one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from _engine.image_info import image_info

sys.path.insert(0, str(Path(__file__).parent))
from kinds import OUR_CHAIN, THEIRS  # noqa: E402
from victims import CRIU, VICTIMS, Menagerie, Victim, missing, restored, run, started  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


@pytest.mark.direction(THEIRS)
@pytest.mark.parametrize("kind", VICTIMS)
def test_we_restore_a_dump_of_crius(kind: type[Victim], tmp_path: Path) -> None:
    if missing(kind):
        pytest.skip(missing(kind))
    images = tmp_path / "1"
    images.mkdir()
    with started(kind, tmp_path / "victim") as victim:
        record = victim.record()
        run("criu", "dump", images, "--tree", str(victim.pid))
        victim.end()
        for _again in range(2):
            with restored("stillframe", victim, images):
                victim.check(record)


@pytest.mark.direction(OUR_CHAIN)
@pytest.mark.parametrize("kind", VICTIMS)
def test_our_dump_on_top_of_one_of_crius_is_restored_by_both(kind: type[Victim], tmp_path: Path) -> None:
    if missing(kind):
        pytest.skip(missing(kind))
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    with started(kind, tmp_path / "victim") as victim:
        run("criu", "dump", first, "--tree", str(victim.pid), "--leave-running")
        victim.change()
        record = victim.record()
        run("stillframe", "dump", second, "--tree", str(victim.pid), "--prev-images-dir", "../1/")
        victim.end()
        info = image_info(str(second))
        assert info.tracker == "compare" and info.chain[0].pages_in_parent > 0 and info.chain[1].id == ""
        for program in ("stillframe", "criu"):
            with restored(program, victim, second):
                victim.check(record)


def test_a_tree_that_we_restored_is_dumped_by_criu_and_restored_by_us_again(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    with started(Menagerie, tmp_path / "victim") as victim:
        run("stillframe", "dump", first, "--tree", str(victim.pid))
        victim.end()
        with restored("stillframe", victim, first):
            victim.change()
            record = victim.record()
            run("criu", "dump", second, "--tree", str(victim.pid))
        for program in ("criu", "stillframe"):
            with restored(program, victim, second):
                victim.check(record)
