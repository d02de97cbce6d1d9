# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Guard regions (MADV_GUARD_INSTALL, Linux 6.13): in full dumps and chains, and where the kernel does not tell them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _engine.check import check
from _engine.images.image import ImagesDir
from _engine.kernel import pagemap
from _engine.resources.memory import guard
from _engine.resources.memory.mapping import VMA_AREA_GUARD, survey
from look import assert_same, look
from victim import Lab, Victim

pytestmark = pytest.mark.skipif(not check(["pagemap_scan_guard_pages"])[0].ok, reason="this kernel does not tell guard regions")


def recorded(path: Path, pid: int) -> list[tuple[int, int]]:
    """Return the guard regions in the dump of PID at PATH."""
    (mm,) = ImagesDir(str(path)).read(f"mm-{pid}")
    return [(vma.start, vma.end) for vma in mm.vmas if vma.status & VMA_AREA_GUARD]


def told(pid: int) -> list[tuple[int, int]]:
    """Return the guard regions of PID."""
    return [(entry.start, entry.end) for entry in guard.dump(pid, survey(pid))]


def goes_through(lab: Lab, victim: Victim, name: str, *options: str) -> Path:
    """Dump VICTIM, which ends it, restore it, and compare it with what was seen before. Return where the dump is."""
    victim.await_rest()
    before, regions = look(victim.pid), told(victim.pid)
    path = lab.dump(victim.pid, name, *options)
    assert regions == recorded(path, victim.pid)
    lab.reap()
    lab.restore(path)
    victim.await_rest()
    assert_same(before, look(victim.pid))
    assert told(victim.pid) == regions
    assert victim.ask() == "ok"
    return path


def test_they_come_back_in_every_kind_of_mapping(lab: Lab) -> None:
    victim = lab.start("guards")
    goes_through(lab, victim, "1")
    assert victim.ask("change") == "ok"
    lab.end(victim.pid)


@pytest.mark.parametrize("freeze", ["hold", "snapshot"])
def test_those_that_come_and_go_in_a_chain(lab: Lab, freeze: str) -> None:
    victim = lab.start("guards")
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running", f"--freeze={freeze}")
    before = told(victim.pid)
    assert victim.ask("change") == "ok"
    lab.run("pre-dump", "--tree", victim.pid, "--images-dir", lab.images("2"), "--prev-images-dir=../1")
    assert victim.ask("change") == "ok"
    goes_through(lab, victim, "3", "--prev-images-dir=../2", "--auto-dedup")
    assert told(victim.pid) != before == recorded(first, victim.pid)
    lab.end(victim.pid)


def test_memory_is_compared_around_them(lab: Lab) -> None:
    victim = lab.start("guards")
    lab.dump(victim.pid, "1", "--leave-running")
    assert victim.ask("change") == "ok"
    goes_through(lab, victim, "2", "--prev-images-dir=../1")
    lab.end(victim.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="page frames are hidden from us: run as root")
def test_a_kernel_that_does_not_tell_them_is_found_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = lab.start("guards")
    mappings = survey(victim.pid)
    assert list(guard.obstacles(victim.pid, mappings)) == []
    monkeypatch.setattr(pagemap, "tells_guards", lambda _pagemap: False)
    guard._untold_entry.cache_clear()
    try:
        found = list(guard.obstacles(victim.pid, mappings))
    finally:
        guard._untold_entry.cache_clear()
    monkeypatch.undo()
    regions = told(victim.pid)
    private = [mapping for mapping in mappings if mapping.private and any(mapping.start <= start < mapping.end for start, _end in regions)]
    assert [obstacle.where for obstacle in found] == [f"mapping {mapping.start:x}-{mapping.end:x}" for mapping in private]
    assert len(private) == 5
    assert all("guard regions" in str(obstacle) for obstacle in found)
    lab.end(victim.pid)
