# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Our trackers on this kernel: chains of dumps hold what changed, and each dump of them is restored whole."""

from __future__ import annotations

import logging
import mmap
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from _engine.dump import dump
from _engine.errors import ImagesError
from _engine.kernel import pagemap
from _engine.options import DumpOptions, RestoreOptions
from _engine.pre_dump import pre_dump
from _engine.resources.memory.mapping import survey
from _engine.restore import restore
from _engine.results import DumpResult
from victim import PAGES, PER_ROUND, ROOT, Victim, victim

LOG = logging.getLogger(__name__)
RELEASE = tuple(int(number) for number in os.uname().release.split(".")[:2])
HAS_SCAN = RELEASE >= (6, 7)
SLACK = 48
"""Pages of stack, data and C library that may change beside those of the rounds."""
needs_scan = pytest.mark.skipif(not HAS_SCAN, reason="PAGEMAP_SCAN came with Linux 6.7")


def take(target: Victim, images: Path, parent: str = "", verb: Any = dump, **options: Any) -> DumpResult:
    """Dump TARGET into IMAGES, on top of PARENT, and let it run on."""
    images.mkdir(exist_ok=True)
    settings = {"leave_running": True, "track_mem": True, **options}
    result: DumpResult = verb(DumpOptions(target.pid, str(images), prev_images_dir=parent or None, **settings), LOG)
    return result


def restored(target: Victim, images: Path) -> str:
    """Restore TARGET, which has ended, from IMAGES; return its answer, and end it."""
    restore(RestoreOptions(str(images)), LOG)
    try:
        return target.answer()
    finally:
        target.end()


def stillframe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "bin/stillframe", *arguments], capture_output=True, text=True, check=False)


def test_check_names_what_this_kernel_can_track_by() -> None:
    assert stillframe("check", "--feature", "soft_dirty").returncode == 0
    assert stillframe("check", "--feature", "mem_dirty_track").returncode == 0
    for feature in ("pagemap_scan", "uffd_wp"):
        assert (stillframe("check", "--feature", feature).returncode == 0) == HAS_SCAN


def test_auto_takes_the_best_tracker(tmp_path: Path) -> None:
    with victim(tmp_path) as target:
        assert take(target, tmp_path / "1").tracking == ("uffd_wp" if HAS_SCAN else "soft_dirty")


@pytest.mark.parametrize("tracker", [pytest.param("uffd_wp", marks=needs_scan), "soft_dirty", "compare"])
def test_a_chain_holds_what_changed_and_each_dump_of_it_is_restored_whole(tmp_path: Path, tracker: str) -> None:
    with victim(tmp_path) as target:
        first = take(target, tmp_path / "0", tracker=tracker)
        assert first.tracker == "none" and first.pages_written > PAGES
        assert first.tracking == (tracker if tracker != "compare" else "none")
        written = []
        for number in (1, 2, 3):
            assert target.advance() == f"whole {number}"
            result = take(target, tmp_path / str(number), f"../{number - 1}", tracker=tracker)
            assert (result.tracker, result.parent_id) != ("none", "")
            assert result.tracker == tracker and not result.warnings, result.warnings
            assert result.pages_skipped_parent > PAGES - PER_ROUND
            written.append(result.pages_written)
        target.end()
        # Round 2 also moves 64 pages, and writes into a huge page and a private file page.
        assert PER_ROUND <= written[0] <= PER_ROUND + SLACK
        assert PER_ROUND + (2 if tracker == "compare" else 66) <= written[1] <= PER_ROUND + 66 + 512 + SLACK
        assert PER_ROUND <= written[2] <= PER_ROUND + SLACK
        for number in (3, 0, 2, 1):
            assert restored(target, tmp_path / str(number)) == f"whole {number}"


def test_a_dump_holds_what_changed_since_a_pre_dump(tmp_path: Path) -> None:
    with victim(tmp_path) as target:
        ahead = take(target, tmp_path / "0", verb=pre_dump, tracker="soft_dirty")
        assert ahead.tracking == "soft_dirty" and ahead.pages_written > PAGES
        target.advance()
        again = take(target, tmp_path / "1", "../0", verb=pre_dump, tracker="soft_dirty")
        assert again.tracker == "soft_dirty" and again.pages_written < 2 * PER_ROUND
        target.advance()
        last = take(target, tmp_path / "2", "../1", leave_running=False, tracker="soft_dirty")
        assert last.tracker == "soft_dirty" and last.pages_skipped_parent > PAGES - 2 * PER_ROUND
        target.wait()
        assert restored(target, tmp_path / "2") == "whole 2"


def test_after_a_failed_dump_memory_is_compared(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    with victim(tmp_path) as target:
        take(target, tmp_path / "0", tracker="soft_dirty")
        target.advance()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
        with pytest.raises(ImagesError):
            take(target, small / "1", "../../0", tracker="soft_dirty")
        subprocess.run(["umount", str(small)], check=True)
        target.advance()
        result = take(target, tmp_path / "1", "../0", tracker="soft_dirty")
        assert result.tracker == "compare" and any("compared" in warning for warning in result.warnings)
        assert 2 * PER_ROUND <= result.pages_written <= 2 * PER_ROUND + 66 + 512 + SLACK
        target.end()
        assert restored(target, tmp_path / "1") == "whole 2"


def test_a_restored_tree_goes_on_with_its_chain(tmp_path: Path) -> None:
    with victim(tmp_path) as target:
        take(target, tmp_path / "0", tracker="soft_dirty", leave_running=False)
        target.wait()
        restore(RestoreOptions(str(tmp_path / "0"), track_mem=True), LOG)
        assert target.advance() == "whole 1"
        result = take(target, tmp_path / "1", "../0")
        assert result.tracker in ("uffd_wp", "soft_dirty") and result.pages_written <= PER_ROUND + SLACK
        target.end()
        assert restored(target, tmp_path / "1") == "whole 1"


@needs_scan
def test_the_entries_of_pagemap_tell_what_the_scan_tells(tmp_path: Path) -> None:
    with victim(tmp_path) as target:
        target.advance()
        fd = pagemap.open_pagemap(target.pid)
        try:
            for mapping in survey(target.pid):
                if mapping.trackable:
                    scanned = by_page(pagemap.filled(fd, mapping.start, mapping.end, pagemap.PAGE_IS_SOFT_DIRTY))
                    assert by_page(pagemap.filled_by_entries(fd, mapping.start, mapping.end)) == scanned, mapping.area
        finally:
            os.close(fd)


def by_page(runs: Any) -> dict[int, int]:
    """Return the categories by page, of those that hold content of the process's own."""
    foreign = pagemap.PAGE_IS_PFNZERO | pagemap.PAGE_IS_FILE
    own = [run for run in runs if not run.categories & foreign]
    return {address: run.categories for run in own for address in range(run.start, run.end, mmap.PAGESIZE)}


def test_this_kernel_has_no_scan_before_6_7() -> None:
    fd = pagemap.open_pagemap(os.getpid())
    try:
        assert pagemap.has_scan(fd) == HAS_SCAN
    finally:
        os.close(fd)
