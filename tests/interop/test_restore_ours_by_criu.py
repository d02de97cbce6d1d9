# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A chain of three dumps of ours: CRIU restores each of them, crit decodes every image in them.

STILLFRAME_CRIU and STILLFRAME_CRIT name a CRIU and a crit that run here; tests/interop/get-criu fetches them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kinds import CRIT, OUR_CHAIN, OURS  # noqa: E402
from victims import CARRIED, CRIU, VICTIMS, Menagerie, Victim, missing, restored, run, started  # noqa: E402

CRITS = [path for path in (shutil.which("crit"), os.environ.get("STILLFRAME_CRIT")) if path]

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


def make_chain(victim: Victim, folder: Path) -> list[tuple[Path, Any]]:
    """Dump VICTIM three times, the last time for good; return each dump with what the victim held then."""
    chain = []
    for number in (1, 2, 3):
        images = folder / str(number)
        images.mkdir()
        parent = ("--prev-images-dir", f"../{number - 1}/") if number > 1 else ()
        running = ("--leave-running",) if number < 3 else ()
        record = victim.record()
        run("stillframe", "dump", images, "--tree", str(victim.pid), "--track-mem", *parent, *running)
        chain.append((images, record))
        if running:
            victim.change()
    return chain


@pytest.mark.direction(OURS, OUR_CHAIN)
@pytest.mark.parametrize("kind", VICTIMS)
def test_criu_restores_every_dump_of_a_chain_of_ours(kind: type[Victim], tmp_path: Path) -> None:
    if missing(kind):
        pytest.skip(missing(kind))
    with started(kind, tmp_path / "victim") as victim:
        chain = make_chain(victim, tmp_path)
        victim.end()
        for program in ("criu", "stillframe"):
            for number in (1, 0, 2):
                images, record = chain[number]
                with restored(program, victim, images):
                    victim.check(record)


def test_criu_restores_a_squashed_dump_and_one_on_top_of_it(tmp_path: Path) -> None:
    with started(Menagerie, tmp_path / "victim") as victim:
        chain = make_chain(victim, tmp_path)
        victim.end()
        run("stillframe", "squash", chain[1][0])
        assert not chain[0][0].exists()
        for crit in CRITS[:1]:
            for path in chain[1][0].glob("pagemap-*.img"):
                shown = subprocess.run([crit, "show", str(path)], capture_output=True, text=True, check=True)
                assert "PE_PRESENT" in shown.stdout and "PE_PARENT" not in shown.stdout
        for program in ("criu", "stillframe"):
            for images, record in (chain[2], chain[1]):
                with restored(program, victim, images):
                    victim.check(record)


def test_the_later_dumps_of_a_chain_are_small(tmp_path: Path) -> None:
    with started(Menagerie, tmp_path / "victim") as victim:
        chain = make_chain(victim, tmp_path)
        name = "pages-1.img"
        sizes = [(images / name).stat().st_size for images, _record in chain]
        assert (chain[1][0] / "parent").is_symlink()
    assert max(sizes[1:]) < sizes[0] // 3


@pytest.mark.kind(*CARRIED[Menagerie])
@pytest.mark.direction(CRIT)
@pytest.mark.parametrize("crit", CRITS or [""])
def test_crit_decodes_every_image_of_ours(crit: str, tmp_path: Path) -> None:
    if not crit:
        pytest.skip("no crit: install criu, or set STILLFRAME_CRIT")
    with started(Menagerie, tmp_path / "victim") as victim:
        chain = make_chain(victim, tmp_path)
    for images, _record in chain:
        for path in sorted(images.glob("*.img")):
            if path.name.startswith("pages-"):
                continue
            done = subprocess.run([crit, "show", str(path)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{path}: {done.stderr}"
            shown = json.loads(done.stdout)
            assert shown["magic"] and isinstance(shown["entries"], list), path


@pytest.mark.parametrize("crit", CRITS or [""])
def test_crit_explores_a_dump_of_ours(crit: str, tmp_path: Path) -> None:
    if not crit:
        pytest.skip("no crit: install criu, or set STILLFRAME_CRIT")
    with started(Menagerie, tmp_path / "victim") as victim:
        images = tmp_path / "1"
        images.mkdir()
        run("stillframe", "dump", images, "--tree", str(victim.pid))
    explored = {}
    for what in ("ps", "fds", "mems"):
        done = subprocess.run([crit, "x", str(images), what], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"crit x {what}: {done.stderr}"
        explored[what] = done.stdout
    assert str(victim.pid) in explored["ps"] and "python" in explored["ps"]
    assert "EVENTPOLL" in explored["fds"] and "TIMERFD" in explored["fds"] and str(tmp_path / "victim" / "ask") in explored["fds"]
    assert "python" in explored["mems"] and "[stack?]" in explored["mems"]
