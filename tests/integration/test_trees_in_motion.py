# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree whose processes come and go all the time, as those of a shell script or a server that forks: none of that is an error."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from _engine.dump import plan
from _engine.errors import TargetError
from _engine.images.chain import open_chain
from _engine.images.pagemap import PAGE_SIZE
from _engine.options import DumpOptions
from _engine.process_info import process_info
from _engine.resources.memory.pages import PageRuns
from _engine.target import check_target
from _engine.tracking import state
from _engine.tracking.compare import Comparison
from _engine.transfer import needs, shape

from victim import Lab, Victim, pauses, until

SHARERS = """
import mmap, os, pathlib, signal, sys
area = mmap.mmap(-1, 64 << 20)
for _child in range(3):
    if not os.fork():
        break
for at in range(0, len(area), mmap.PAGESIZE):
    area[at] = 1
while True:
    signal.pause()
"""


@pytest.fixture
def victim(lab: Lab) -> Victim:
    """It has a child most of the time, and no child for long."""
    return lab.start("shared_writer")


def test_looks(victim: Victim) -> None:
    for _look in range(100):
        assert plan(DumpOptions(tree=victim.pid, images_dir="", track_mem=True)).dumpable
        assert process_info(victim.pid).tasks[0].pid == victim.pid
        assert shape.look(check_target(victim.pid))[0].pid == victim.pid


@pytest.mark.parametrize("tracker", ["auto", "compare"])
def test_a_chain_of_pre_dumps(lab: Lab, victim: Victim, tracker: str) -> None:
    parent: list[str] = []
    for number in range(1, 6):
        path = lab.images(str(number))
        lab.run("pre-dump", "--tree", victim.pid, "--images-dir", path, "--tracker", tracker, *parent)
        parent = [f"--prev-images-dir=../{number}"]
    path = lab.dump(victim.pid, "6", "--track-mem", *parent)
    lab.reap()
    for _again in range(2):
        lab.restore(path)
        assert victim.ask() == "ok"
        lab.end(victim.pid)


def test_what_is_unmapped_while_it_is_compared_is_left_to_the_next_dump(lab: Lab) -> None:
    victim = lab.start("memory")
    path = lab.dump(victim.pid, "1", "--leave-running")
    chain = open_chain(str(path), verify=False)
    known = next(chain.iterate_extents(f"pagemap-{victim.pid}"))
    runs = PageRuns()
    runs.add(known.start, known.start + PAGE_SIZE, False)
    os.kill(victim.pid, signal.SIGKILL)
    os.waitpid(victim.pid, 0)
    with Comparison(victim.pid, chain, f"pagemap-{victim.pid}", tolerant=True) as comparison:
        assert [run.in_parent for run in comparison.refine(runs)] == [False]
    with Comparison(victim.pid, chain, f"pagemap-{victim.pid}") as comparison, pytest.raises(TargetError):
        comparison.refine(runs)


def test_nothing_is_remembered_of_who_has_ended(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "DIRECTORY", str(tmp_path / "state"))
    victim = lab.start("memory")
    os.kill(victim.pid, signal.SIGKILL)
    os.waitpid(victim.pid, 0)
    state.save(victim.pid, state.TrackingState("", "none"))
    assert not (tmp_path / "state").exists()


def test_shared_memory_counts_once(lab: Lab) -> None:
    root = lab.spawn([sys.executable, "-c", SHARERS]).pid
    until(lambda: len(check_target(root)) == 4 and all(map(pauses, check_target(root))), "they do not come to rest")
    alone = sum(int(line.split()[1]) << 10 for line in Path(f"/proc/{root}/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert alone > 64 << 20
    wanted = needs.look(check_target(root)).memory
    assert 64 << 20 < wanted < alone + 3 * (alone - (64 << 20)) + (16 << 20)
