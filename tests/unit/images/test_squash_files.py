# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""squash makes one dump hold what it held with its parents, at once or not at all, and takes away only what nobody needs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping

import pytest
from killed import in_memory, killed_before
from made_dumps import Made, Maker

from _engine.dedup import dedup
from _engine.errors import ChainError, ImagesError
from _engine.images.chain import open_chain
from _engine.images.manifest import CRIU, read_manifest
from _engine.squash import squash

Reader = Callable[[str, str], Mapping[int, int]]
NAME, OTHER = "pagemap-100", "pagemap-shmem-5"
CONTENT = {
    "1": {NAME: {0: 10, 1: 11, 2: 12, 3: 13, 7: 17}, OTHER: {0: 1, 1: 2}},
    "2": {NAME: {0: 10, 1: 21, 2: 22, 3: 13, 4: 24}, OTHER: {0: 1, 1: 3}},
    "3": {NAME: {0: 10, 1: 21, 2: 32, 3: 13, 4: 34, 9: 39}, OTHER: {0: 7, 1: 8}},
    "4": {NAME: {0: 10, 1: 41, 2: 32, 9: 39}, OTHER: {0: 7, 1: 8}},
}


@pytest.fixture
def four(make_dump: Maker) -> List[Made]:
    first = make_dump("1", CONTENT["1"])
    second = make_dump("2", {NAME: {0: "parent", 1: 21, 2: 22, 3: "parent", 4: 24}, OTHER: {0: "parent", 1: 3}}, first)
    third = make_dump("3", {NAME: {0: "parent", 1: "parent", 2: 32, 3: "parent", 4: 34, 9: 39}, OTHER: {0: 7, 1: 8}}, second)
    fourth = make_dump("4", {NAME: {0: "parent", 1: 41, 2: "parent", 9: "parent"}, OTHER: {0: "parent", 1: "parent"}}, third)
    return [first, second, third, fourth]


def names(root: str) -> List[str]:
    return sorted(os.listdir(root))


def content(read_back: Reader, path: str) -> Dict[str, Mapping[int, int]]:
    return {name: read_back(path, name) for name in (NAME, OTHER)}


def test_the_oldest_part_becomes_one(four: List[Made], read_back: Reader) -> None:
    root, third = os.path.dirname(four[2].path), four[2].path
    Path(third, "dump.log").write_text("kept")
    told = squash(third, check=True)
    assert names(root) == ["1", "2", "3", "4"]
    result = squash(third)
    assert names(root) == ["3", "4"]
    assert result.removed == told.removed == (four[1].path, four[0].path)
    assert result.pages_merged == told.pages_merged == 3 and result.bytes_freed > 0
    assert content(read_back, third) == CONTENT["3"] and content(read_back, four[3].path) == CONTENT["4"]
    open_chain(four[3].path)
    assert Path(third, "dump.log").read_text() == "kept"
    manifest = read_manifest(third)
    assert manifest is not None and (manifest.id, manifest.parent_id) == (four[2].id, "")
    again = squash(third)
    assert not again.squashed and again.warnings and again.bytes_freed == 0


def test_what_others_need_is_kept(four: List[Made], make_dump: Maker, read_back: Reader) -> None:
    branch = make_dump("5", {NAME: {0: "parent"}, OTHER: {}}, four[0])
    result = squash(four[3].path)
    assert names(os.path.dirname(branch.path)) == ["1", "4", "5"] and four[0].path in result.warnings[0]
    assert content(read_back, four[3].path) == CONTENT["4"] and read_back(branch.path, NAME) == {0: 10}


def test_a_pinned_parent_is_kept_with_its_own(four: List[Made]) -> None:
    Path(four[1].path, "pinned").touch()
    squash(four[3].path)
    assert names(os.path.dirname(four[0].path)) == ["1", "2", "4"]
    open_chain(four[1].path)


def test_parents_can_be_kept(four: List[Made], read_back: Reader) -> None:
    assert squash(four[2].path, keep_parents=True).removed == ()
    assert {name: content(read_back, four[int(name) - 1].path) for name in CONTENT} == CONTENT
    assert len(open_chain(four[3].path).dumps) == 2


def test_dumps_by_criu(four: List[Made], read_back: Reader) -> None:
    for made in four:
        os.unlink(made.path + "/stillframe.json")
    squash(four[2].path)
    assert content(read_back, four[2].path) == CONTENT["3"] and content(read_back, four[3].path) == CONTENT["4"]
    manifest = read_manifest(four[2].path)
    assert manifest is not None and (manifest.made_by, manifest.id) == (CRIU, "")


def test_freed_pages_are_not_to_be_had_again(four: List[Made], read_back: Reader) -> None:
    dedup(four[3].path)
    with pytest.raises(ChainError, match="dedup freed it"):
        squash(four[2].path)
    assert names(os.path.dirname(four[0].path)) == ["1", "2", "3", "4"]
    squash(four[3].path)
    assert names(os.path.dirname(four[0].path)) == ["4"]
    assert content(read_back, four[3].path) == CONTENT["4"]


def test_a_damaged_parent_is_not_blessed(four: List[Made]) -> None:
    with open(four[0].pages_file(), "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(ChainError, match="/1/pages-1.img is damaged"):
        squash(four[2].path)
    assert names(os.path.dirname(four[0].path)) == ["1", "2", "3", "4"]


def test_one_run_at_a_time(four: List[Made]) -> None:
    fd = os.open(os.path.dirname(four[0].path), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    for verb in (squash, dedup):
        with pytest.raises(ImagesError, match="another run works on the dumps in .*; wait for it"):
            verb(four[2].path)
    os.close(fd)
    squash(four[2].path)


def test_killed_before_any_change_to_the_disk(four: List[Made], read_back: Reader) -> None:
    """All dumps restore in between, but those that were taken away whole; and the next run ends what was begun."""
    step, ended = 0, False
    while not ended:
        with in_memory(four) as root:
            third = f"{root}/3"
            ended = not killed_before(step, lambda path=third: squash(path))
            left = [name for name in names(root) if not name.startswith(".")]
            assert set(left) >= {"3", "4"}
            assert {name: content(read_back, f"{root}/{name}") for name in left} == {name: CONTENT[name] for name in left}
            squash(third)
            assert names(root) == ["3", "4"], step
            assert content(read_back, third) == CONTENT["3"] and content(read_back, f"{root}/4") == CONTENT["4"]
        step += 2
    assert step > 40


@pytest.fixture
def mounted(tmp_path: Path, four: List[Made]) -> Iterator[str]:
    """Return a small filesystem with the dumps on it."""
    root = str(tmp_path / "mounted")
    os.mkdir(root)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=384k", "none", root], check=True)
    try:
        for made in four:
            shutil.copytree(made.path, f"{root}/{os.path.basename(made.path)}", symlinks=True)
        yield root
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_and_one_that_is_read_only(mounted: str, read_back: Reader) -> None:
    filler = os.open(f"{mounted}/filler", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="No space left"):
        while True:
            os.write(filler, bytes(4096))
    os.close(filler)
    with pytest.raises(ImagesError, match="No space left"):
        squash(f"{mounted}/3")
    assert names(mounted) == ["1", "2", "3", "4", "filler"]
    os.unlink(f"{mounted}/filler")
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with pytest.raises(ImagesError, match="Read-only"):
        squash(f"{mounted}/3")
    assert {name: content(read_back, f"{mounted}/{name}") for name in CONTENT} == CONTENT
    subprocess.run(["mount", "-o", "remount,rw", mounted], check=True)
    squash(f"{mounted}/3")
    assert names(mounted) == ["3", "4"]
