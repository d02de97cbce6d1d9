# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""--auto-dedup: dumps and pre-dumps free what they replace in their parents, a restore what it was made from."""

from __future__ import annotations

from pathlib import Path

from victim import Lab, sentence

BLOCK = 512


def allocated(images: Path) -> int:
    """Return the bytes that the pages files of a dump take on disk."""
    return sum(path.stat().st_blocks for path in images.glob("pages-*.img")) * BLOCK


def test_a_restore_frees_what_it_was_made_from(lab: Lab) -> None:
    victim = lab.start("writer")
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    second = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    assert allocated(first) and allocated(second)
    refused = sentence(lab.engine("restore", "--images-dir", second, "--restore-detached", "--auto-dedup", "--track-mem"))
    assert "exclude each other" in refused and allocated(first) and allocated(second)
    lab.restore(second, "--auto-dedup")
    assert allocated(first) == allocated(second) == 0
    assert victim.ask() == "ok"
    for images in (first, second):
        assert "dedup freed" in sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert victim.ask() == "ok"
    assert "dedup freed" in sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("3"), "--prev-images-dir=../2"))
    lab.end(victim.pid)


def test_a_pre_dump_frees_what_it_replaces(lab: Lab) -> None:
    victim = lab.start("writer")
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    before = allocated(first)
    lab.run("pre-dump", "--tree", victim.pid, "--images-dir", lab.images("2"), "--prev-images-dir=../1", "--auto-dedup")
    assert allocated(first) < before
    last = lab.dump(victim.pid, "3", "--prev-images-dir=../2", "--auto-dedup")
    lab.reap()
    lab.restore(last)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_a_restore_that_fails_puts_back_what_it_freed(lab: Lab) -> None:
    victim = lab.start("writer")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    second = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    script = lab.folder / "script"
    script.write_text(f"""#!/bin/sh
        [ "$CRTOOLS_SCRIPT_ACTION" = post-restore ] || exit 0
        stat -c %b {second}/pages-1.img >{lab.folder}/blocks
        exit 1
    """)
    script.chmod(0o755)
    before = allocated(second)
    sentence(lab.engine("restore", "--images-dir", second, "--restore-detached", "--auto-dedup", "--action-script", script))
    assert int((lab.folder / "blocks").read_text()) * BLOCK < before / 4
    lab.restore(second, "--auto-dedup")
    assert victim.ask() == "ok"
    lab.end(victim.pid)
