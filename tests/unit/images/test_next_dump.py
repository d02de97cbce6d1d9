# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the next dump is full or incremental, where it goes, and what leads to it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from killed import killed_before

from _engine.chains.next_dump import Seen, decide
from _engine.chains.numbered import advancing, finished, following, point_latest, sweep_unfinished
from _engine.errors import ImagesError


@pytest.mark.parametrize(
    ("seen", "full_every", "parent", "reason"),
    [
        (None, 0, "", "first"),
        (Seen("7"), 0, "7", "incremental"),
        (Seen("7", length=4), 5, "7", "incremental"),
        (Seen("7", length=5), 5, "", "too_long"),
        (Seen("7", length=1), 1, "", "too_long"),
        (Seen("7", length=999), 0, "7", "incremental"),
        (Seen("7", tracked=False), 0, "", "untracked"),
        (Seen("7", same_tree=False, length=9, tracked=False), 5, "", "restarted"),
        (Seen("7", fault="6 is missing; put it back", same_tree=False), 5, "", "unsound"),
    ],
)
def test_the_decision(seen: Seen, full_every: int, parent: str, reason: str) -> None:
    decision = decide(seen, full_every)
    assert (decision.parent, decision.reason) == (parent, reason)
    assert decision.why


def dump_in(root: Path, name: str, *files: str) -> Path:
    path = root / name
    path.mkdir()
    for file in files:
        (path / file).touch()
    return path


def test_numbers_go_on(tmp_path: Path) -> None:
    assert following(str(tmp_path)) == str(tmp_path / "1")
    for name in ("2", "10", "notes", ".11.removed", "x12"):
        dump_in(tmp_path, name, "inventory.img")
    assert finished(str(tmp_path)) == [str(tmp_path / "10"), str(tmp_path / "2")]
    assert following(str(tmp_path)) == str(tmp_path / "12")
    (tmp_path / "latest").symlink_to("20")
    assert following(str(tmp_path)) == str(tmp_path / "21")


def test_latest_leads_to_the_newest_dump(tmp_path: Path) -> None:
    root = str(tmp_path)
    point_latest(root)
    assert not os.listdir(root)
    dump_in(tmp_path, "1", "inventory.img")
    point_latest(root)
    assert os.readlink(tmp_path / "latest") == "1"
    dump_in(tmp_path, "2", "core-1.img")
    (tmp_path / "latest.partial").symlink_to("3")
    point_latest(root)
    assert os.readlink(tmp_path / "latest") == "1"
    (tmp_path / "2" / "inventory.img").touch()
    point_latest(root)
    assert os.readlink(tmp_path / "latest") == "2" and sorted(os.listdir(root)) == ["1", "2", "latest"]


def test_only_what_is_half_and_nobody_works_on_is_swept(tmp_path: Path) -> None:
    dump_in(tmp_path, "1", "inventory.img")
    dump_in(tmp_path, "2", "core-1.img", "pages-1.img", "parent", "inventory.img.partial")
    dump_in(tmp_path, "3", "core-1.img", "mine.txt")
    dump_in(tmp_path, "4", "stillframe-pages.json", "pages-1.img")
    written = dump_in(tmp_path, "5", "core-1.img")
    dump_in(tmp_path, "old", "core-1.img")
    dump_in(tmp_path, "6")
    lock = os.open(written, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert sorted(sweep_unfinished(str(tmp_path))) == [str(tmp_path / "2"), str(tmp_path / "6")]
    finally:
        os.close(lock)
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "4", "5", "old"]
    assert os.listdir(tmp_path / "3") == ["mine.txt"] and os.listdir(written) == ["core-1.img"]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with advancing(str(tmp_path)), pytest.raises(ImagesError, match="another run makes a dump"), advancing(str(tmp_path)):
        pass
    with advancing(str(tmp_path)):
        pass


def test_whenever_it_is_killed_the_next_run_ends_what_was_begun() -> None:
    step, ended = 0, False
    while not ended:
        with TemporaryDirectory(dir="/dev/shm") as folder:
            root = Path(folder)
            dump_in(root, "1", "inventory.img")
            (root / "latest").symlink_to("1")
            dump_in(root, "2", "inventory.img")
            dump_in(root, "3", "core-1.img", "pages-1.img")
            ended = not killed_before(step, lambda root=folder: (sweep_unfinished(root), point_latest(root)))  # type: ignore[misc]
            assert os.readlink(root / "latest") in ("1", "2"), "at no moment is there none"
            sweep_unfinished(folder)
            point_latest(folder)
            assert sorted(os.listdir(root)) == ["1", "2", "latest"] and os.readlink(root / "latest") == "2"
        step += 1
    assert step > 5
