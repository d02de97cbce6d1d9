# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""image_info tells what a dump holds, also of a chain that is not whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_dumps import Maker

from _engine.dedup import dedup
from _engine.errors import ImagesError
from _engine.image_info import image_info
from _engine.images.manifest import PRE_DUMP
from _engine.images.pagemap import PAGE_SIZE

NAME = "pagemap-100"


def test_a_chain(make_dump: Maker) -> None:
    first = make_dump("1", {NAME: {0: 1, 1: 2}}, kind=PRE_DUMP)
    second = make_dump("2", {NAME: {0: "parent", 1: 3, 2: 4}}, first)
    info = image_info(second.path)
    assert info.is_dump and info.why_not == "" and info.made_by == "stillframe"
    assert (info.id, info.parent_id, info.kind) == (second.id, first.id, "dump")
    assert os.path.samefile(info.parent, first.path)
    assert [(task.pid, task.ppid, task.threads) for task in info.tasks] == [(100, 0, (100,))]
    assert [(link.id, link.kind, link.pages_present, link.pages_in_parent) for link in info.chain] == [
        (second.id, "dump", 2, 1),
        (first.id, "pre-dump", 2, 0),
    ]
    assert [link.restorable for link in info.chain] == [True, False]
    assert "is a pre-dump" in info.chain[1].why_not
    assert all(link.bytes_apparent > link.pages_present * PAGE_SIZE and link.bytes_on_disk >= 2 * PAGE_SIZE for link in info.chain)


def test_after_dedup(make_dump: Maker) -> None:
    first = make_dump("1", {NAME: {0: 1, 1: 2}})
    second = make_dump("2", {NAME: {0: "parent", 1: 3}}, first)
    before = image_info(second.path)
    dedup(second.path)
    after = image_info(second.path)
    assert [link.restorable for link in after.chain] == [True, False]
    assert "dedup freed 1 pages of" in after.chain[1].why_not
    assert before.chain[1].bytes_on_disk - after.chain[1].bytes_on_disk == PAGE_SIZE


def test_a_broken_chain_is_told(make_dump: Maker) -> None:
    first = make_dump("1", {NAME: {0: 1}})
    second = make_dump("2", {NAME: {0: "parent"}}, first)
    os.unlink(first.path + "/inventory.img")
    info = image_info(second.path)
    assert info.is_dump and "holds no finished dump" in info.why_not and info.chain == ()
    assert [task.pid for task in info.tasks] == [100]


def test_no_dump(tmp_path: Path) -> None:
    info = image_info(str(tmp_path))
    assert not info.is_dump and info.made_by == "" and "holds no finished dump" in info.why_not
    with pytest.raises(ImagesError, match="cannot list"):
        image_info(str(tmp_path / "none"))


def test_a_damaged_image_is_told(make_dump: Maker) -> None:
    made = make_dump("1", {NAME: {0: 1}})
    os.truncate(made.path + "/pstree.img", 9)
    assert "pstree.img is truncated at offset 8" in image_info(made.path).why_not


def test_a_dump_by_criu(make_dump: Maker) -> None:
    made = make_dump("1", {NAME: {0: 1}})
    os.unlink(made.path + "/stillframe.json")
    info = image_info(made.path)
    assert (info.made_by, info.id, info.kind, info.chain[0].restorable) == ("criu", "", "dump", True)


def test_it_loads_nothing_of_restore() -> None:
    program = "import sys, _engine.image_info; print(*(name for name in sys.modules if name.startswith('_engine')))"
    path = next(entry for entry in sys.path if entry.endswith("module_utils"))
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "_engine.image_info" in loaded
    allowed = ("_engine.images", "_engine.image_info", "_engine.errors", "_engine.kernel")
    assert [name for name in loaded if name != "_engine" and not name.startswith(allowed)] == []
