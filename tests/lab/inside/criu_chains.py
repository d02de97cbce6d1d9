# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of incremental dumps between CRIU and us, with Debian's CRIU on a kernel where it can track memory.

No huge pages where CRIU makes an incremental dump: on Linux 6.1 it leaves a huge page that was given back and then read to the parent.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from _engine.dedup import dedup
from _engine.images.chain import open_chain
from _engine.images.image import ImagesDir
from _engine.images.pagemap import iterate_runs
from trackers import PER_ROUND, restored, take
from victim import PAGES, Victim, victim


def criu(verb: str, images: Path, *options: str) -> None:
    command = ["criu", verb, "--images-dir", str(images), "--log-file", f"{verb}.log", "-v2", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    log = images / f"{verb}.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-2000:] if log.exists() else "")


def criu_dump(target: Victim, images: Path, *options: str) -> None:
    images.mkdir()
    criu("dump", images, "--tree", str(target.pid), *options)


def restored_by_criu(target: Victim, images: Path) -> str:
    criu("restore", images, "--restore-detached")
    try:
        return target.answer()
    finally:
        target.end()


def chain_of_criu(target: Victim, directory: Path) -> None:
    """Have CRIU dump TARGET in rounds 0, 1 and 2; the last dump ends it. Without --track-mem CRIU makes that a full one."""
    criu_dump(target, directory / "0", "--leave-running", "--track-mem")
    target.advance()
    criu_dump(target, directory / "1", "--leave-running", "--track-mem", "--prev-images-dir", "../0")
    target.advance()
    criu_dump(target, directory / "2", "--track-mem", "--prev-images-dir", "../1")
    target.wait()
    extents = open_chain(str(directory / "2")).extents(f"pagemap-{target.pid}")
    oldest = sum(extent.pages for extent in extents if Path(extent.path).resolve().parent == directory / "0")
    assert oldest > PAGES - 3 * PER_ROUND, "it is an incremental chain"


def test_we_restore_each_dump_of_a_chain_of_criu(tmp_path: Path) -> None:
    with victim(tmp_path, huge=False) as target:
        chain_of_criu(target, tmp_path)
        for number in (2, 0, 1):
            assert restored(target, tmp_path / str(number)) == f"whole {number}"


@pytest.mark.parametrize("tracker", ["soft_dirty", "compare"])
def test_criu_restores_each_dump_of_our_chain(tmp_path: Path, tracker: str) -> None:
    with victim(tmp_path) as target:
        take(target, tmp_path / "0", tracker=tracker)
        target.advance()
        take(target, tmp_path / "1", "../0", tracker=tracker)
        target.advance()
        take(target, tmp_path / "2", "../1", tracker=tracker, leave_running=False, track_mem=False)
        target.wait()
        for number in (2, 0, 1):
            assert restored_by_criu(target, tmp_path / str(number)) == f"whole {number}"


def test_our_dedup_of_a_chain_of_criu_leaves_the_newest_dump_whole(tmp_path: Path) -> None:
    with victim(tmp_path, huge=False) as target:
        chain_of_criu(target, tmp_path)
        result = dedup(str(tmp_path / "2"))
        assert result.pages_punched >= 2 * PER_ROUND and result.bytes_freed > 0
        assert dedup(str(tmp_path / "2")).pages_punched == 0
        assert restored(target, tmp_path / "2") == "whole 2"
        assert restored_by_criu(target, tmp_path / "2") == "whole 2"


def test_we_dump_on_top_of_a_dump_of_criu(tmp_path: Path) -> None:
    with victim(tmp_path) as target:
        criu_dump(target, tmp_path / "0", "--leave-running", "--track-mem")
        target.advance()
        result = take(target, tmp_path / "1", "../0", tracker="soft_dirty")
        assert result.tracker == "compare", "CRIU leaves no claim that its reset belongs to this dump"
        assert PER_ROUND <= result.pages_written < 2 * PER_ROUND
        target.end()
        assert restored(target, tmp_path / "1") == "whole 1"
        assert restored_by_criu(target, tmp_path / "1") == "whole 1"


def test_what_criu_resets_is_noticed(tmp_path: Path) -> None:
    with victim(tmp_path) as target:
        take(target, tmp_path / "0", tracker="soft_dirty")
        target.advance()
        criu_dump(target, tmp_path / "criu", "--leave-running", "--track-mem")
        target.advance()
        result = take(target, tmp_path / "1", "../0", tracker="soft_dirty")
        assert result.tracker == "compare" and any("compared" in warning for warning in result.warnings)
        target.end()
        assert restored(target, tmp_path / "1") == "whole 2"


def test_criu_dumps_on_top_of_a_dump_of_ours(tmp_path: Path) -> None:
    with victim(tmp_path, huge=False) as target:
        take(target, tmp_path / "0", tracker="soft_dirty")
        target.advance()
        criu_dump(target, tmp_path / "1", "--track-mem", "--prev-images-dir", "../0")
        assert any(run.in_parent for run in iterate_runs(ImagesDir(str(tmp_path / "1")), f"pagemap-{target.pid}"))
        target.wait()
        assert restored_by_criu(target, tmp_path / "1") == "whole 1"
        assert restored(target, tmp_path / "1") == "whole 1"
