# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains of real files: where pages lie, and every kind of damage is refused by name."""

from __future__ import annotations

import gc
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Callable, Mapping

import pytest
from made_dumps import BASE, TREE, Made, Maker, address

from _engine.errors import ChainError
from _engine.images import schema
from _engine.images.chain import Extent, open_chain
from _engine.images.checksum import STRETCH
from _engine.images.image import ImagesDir
from _engine.images.manifest import PRE_DUMP, Tree, read_manifest, write_manifest
from _engine.images.pagemap import PAGE_SIZE

Reader = Callable[[str, str], Mapping[int, int]]
NAME = "pagemap-100"


@pytest.fixture
def three(make_dump: Maker) -> list[Made]:
    """A chain of three, oldest first: what the newest needs lies in all of them."""
    first = make_dump("1", {NAME: {0: 10, 1: 11, 2: 12, 3: 13, 7: 17}})
    second = make_dump("2", {NAME: {0: "parent", 1: 21, 2: "parent", 3: "parent", 4: 24}}, first)
    third = make_dump("3", {NAME: {0: "parent", 1: "parent", 2: 32, 3: "parent", 4: "parent", 9: 39}}, second)
    return [first, second, third]


def test_pages_come_from_the_newest_that_has_them(three: list[Made], read_back: Reader) -> None:
    assert read_back(three[0].path, NAME) == {0: 10, 1: 11, 2: 12, 3: 13, 7: 17}
    assert read_back(three[1].path, NAME) == {0: 10, 1: 21, 2: 12, 3: 13, 4: 24}
    assert read_back(three[2].path, NAME) == {0: 10, 1: 21, 2: 32, 3: 13, 4: 24, 9: 39}
    chain = open_chain(three[2].path)
    assert [dump.id for dump in chain.dumps] == [made.id for made in reversed(three)]
    assert chain.dump_id == three[2].id
    assert chain.restorable()


def test_extents_are_merged_and_sorted(make_dump: Maker) -> None:
    first = make_dump("1", {NAME: {0: 1, 1: 2, 2: 3, 3: 4}})
    second = make_dump("2", {NAME: {0: "parent", 1: "parent", 2: 5, 3: "parent"}}, first)
    assert open_chain(second.path).extents(NAME) == [
        Extent(BASE, 2, first.pages_file(), 0),
        Extent(address(2), 1, second.pages_file(), 0),
        Extent(address(3), 1, first.pages_file(), 3 * PAGE_SIZE),
    ]
    assert open_chain(first.path + "/").extents(NAME) == [Extent(BASE, 4, first.pages_file(), 0)]


def test_a_run_may_cross_many_of_the_parents(make_dump: Maker, read_back: Reader) -> None:
    from _engine.images.pagemap import Pagemap, Run, write_pagemap

    first = make_dump("1", {NAME: {0: 1, 1: 2, 2: 3, 3: 4}})
    second = make_dump("2", {NAME: {0: "parent", 1: 5, 2: "parent", 3: 6}}, first)
    third = make_dump("3", {NAME: {}}, second)
    forget_manifest(third.path)
    write_pagemap(ImagesDir(third.path), NAME, Pagemap(1, (Run(BASE, 4, True),)))
    assert read_back(third.path, NAME) == {0: 1, 1: 5, 2: 3, 3: 6}


def test_a_long_chain_takes_no_recursion(make_dump: Maker, read_back: Reader) -> None:
    made = make_dump("0", {NAME: {0: 7}})
    for number in range(1, 400):
        made = make_dump(str(number), {NAME: {0: "parent", 1: number % 256}}, made)
    assert read_back(made.path, NAME) == {0: 7, 1: 399 % 256}


def test_a_chain_moved_as_a_whole_is_whole(three: list[Made], read_back: Reader, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for made in three:
        shutil.move(made.path, tmp_path / "elsewhere")
    assert read_back(str(tmp_path / "elsewhere" / "3"), NAME)[0] == 10


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 4]), offset)


def forget_manifest(path: str) -> None:
    os.unlink(os.path.join(path, "stillframe.json"))


def relink(path: str, target: str) -> None:
    os.unlink(os.path.join(path, "parent"))
    os.symlink(target, os.path.join(path, "parent"))


def newer(path: str) -> None:
    Path(path, "stillframe.json").write_text(json.dumps({"format": 2}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda one, two, three: shutil.rmtree(one), "/1, the parent of .*/2, is missing; put it back there"),
        (lambda one, two, three: os.unlink(one + "/inventory.img"), r"/1, the parent of .*/2, holds no finished dump \(no inventory.img\)"),
        (lambda one, two, three: relink(two, "../3"), "/2/parent leads back to .*/3"),
        (lambda one, two, three: relink(two, "."), "leads back to .*/2"),
        (lambda one, two, three: os.unlink(two + "/parent"), "/2/parent is missing, though the dump was made on top of dump"),
        (lambda one, two, three: relink(three, "../1"), "/3 was made on top of dump .*, but its parent .*/1 holds dump"),
        (lambda one, two, three: newer(one), "/1/stillframe.json was written by a newer Stillframe"),
        (lambda one, two, three: flip(one + "/stillframe.json", 40), "/1/stillframe.json is damaged"),
        (lambda one, two, three: os.truncate(one + "/pages-1.img", 5 * PAGE_SIZE - 1), "/1/pages-1.img is truncated at offset 20479"),
        (lambda one, two, three: os.truncate(one + "/pages-1.img", PAGE_SIZE), "/1/pages-1.img is truncated at offset 4096"),
        (lambda one, two, three: os.truncate(one + "/pages-1.img", 6 * PAGE_SIZE), "/1/pages-1.img has 24576 bytes and had 20480"),
        (lambda one, two, three: os.unlink(one + "/pages-1.img"), "/1/pages-1.img is truncated at offset 0"),
        (lambda one, two, three: flip(one + "/pages-1.img", 3 * PAGE_SIZE + 7), "/1/pages-1.img is damaged between offsets 0 and 20480"),
        (lambda one, two, three: flip(three + "/pages-1.img", 9), "/3/pages-1.img is damaged between offsets 0 and 8192"),
        (lambda one, two, three: flip(two + "/pagemap-100.img", 20), "/2/pagemap-100.img is damaged: its checksum"),
        (lambda one, two, three: flip(three + "/pstree.img", 13), "/3/pstree.img is damaged: its checksum"),
        (lambda one, two, three: flip(one + "/inventory.img", 9), "/1/inventory.img is damaged"),
        (lambda one, two, three: os.truncate(three + "/pstree.img", 9), "/3/pstree.img is truncated at offset 9"),
        (lambda one, two, three: os.unlink(one + "/pagemap-100.img"), "cannot read .*/1/pagemap-100.img|/1/pagemap-100.img is missing"),
        (lambda one, two, three: os.unlink(three + "/pstree.img"), "cannot read .*/3/pstree.img: No such file"),
    ],
)
def test_damage_is_refused(three: list[Made], damage: Callable[..., None], sentence: str) -> None:
    paths = [made.path for made in three]
    damage(*paths)
    with pytest.raises(ChainError, match=sentence) as caught:
        open_chain(paths[2])
    assert "; " in str(caught.value), "the sentence has a remedy"


def test_only_what_is_needed_is_checked(make_dump: Maker) -> None:
    """A parent's stretch that the dump reads nothing from may have gone bad."""
    stretch = STRETCH // PAGE_SIZE
    first = make_dump("1", {NAME: {page: page % 251 for page in range(2 * stretch)}})
    second = make_dump("2", {NAME: {page: "parent" for page in range(stretch)}}, first)
    flip(first.pages_file(), STRETCH + 5)
    assert len(open_chain(second.path).extents(NAME)) == 1
    with pytest.raises(ChainError, match="damaged between offsets 1048576 and 2097152"):
        open_chain(first.path)
    flip(first.pages_file(), STRETCH - 5)
    with pytest.raises(ChainError, match="damaged between offsets 0 and 1048576"):
        open_chain(second.path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda one, two, three: os.truncate(one + "/pages-1.img", 2 * PAGE_SIZE), "/1/pages-1.img is truncated at offset 8192"),
        (lambda one, two, three: os.unlink(two + "/pages-1.img"), "/2/pages-1.img is truncated at offset 0"),
        (lambda one, two, three: os.unlink(two + "/pagemap-100.img"), "/2/pagemap-100.img is missing"),
        (lambda one, two, three: flip(two + "/pagemap-100.img", 0), "/2/pagemap-100.img does not begin as a pagemap image"),
        (lambda one, two, three: os.unlink(two + "/parent"), "/2 counts on a parent for the page at 10000000 of pagemap-100 and has none"),
        (lambda one, two, three: relink(three, "../1"), "/1 lacks the page at 10004000 of pagemap-100"),
        (lambda one, two, three: shutil.rmtree(one), "/1, the parent of .*/2, is missing"),
        (lambda one, two, three: os.symlink("../3", one + "/parent"), "/1/parent leads back to .*/3"),
    ],
)
def test_a_chain_without_manifests_is_checked_by_its_structure(three: list[Made], damage: Callable[..., None], sentence: str) -> None:
    paths = [made.path for made in three]
    for path in paths:
        forget_manifest(path)
    assert open_chain(paths[2]).dump_id == ""
    damage(*paths)
    with pytest.raises(ChainError, match=sentence):
        open_chain(paths[2])


def test_nothing_stays_open(three: list[Made]) -> None:
    """Whether the walk through the pagemaps went to its end or not, and without help from the garbage collector."""
    gc.disable()
    try:
        before = os.listdir("/proc/self/fd")
        chain = open_chain(three[2].path)
        chain.extents(NAME)
        next(chain.iterate_extents(NAME))
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


def test_what_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="is not a directory"):
        open_chain(str(tmp_path / "none"))
    with pytest.raises(ChainError, match="holds no finished dump"):
        open_chain(str(tmp_path))


def test_a_future_image_version(three: list[Made]) -> None:
    for made in three:
        forget_manifest(made.path)
    ImagesDir(three[0].path).write("inventory", [schema.message("inventory_entry")(img_version=3)])
    with pytest.raises(ChainError, match="/1/inventory.img has image version 3, known here 2"):
        open_chain(three[2].path)


def test_a_parent_of_another_tree(make_dump: Maker) -> None:
    first = make_dump("1", {NAME: {0: 1}})
    second = make_dump("2", {NAME: {0: 2}}, first, tree=Tree(TREE.pid + 1, 1, "b"))
    with pytest.raises(ChainError, match="/2 is of the tree of process 101, its parent .*/1 of 100"):
        open_chain(second.path)


def test_a_middle_dump_whose_parent_lost_pages(three: list[Made]) -> None:
    """It lost none of its own, and still cannot be restored."""
    assert open_chain(three[1].path).restorable()
    manifest = read_manifest(three[0].path)
    assert manifest is not None
    record = replace(manifest.pages["pages-1.img"], gone=((3, 4),))
    write_manifest(three[0].path, replace(manifest, pages={"pages-1.img": record}))
    assert "no longer holds the page at 10003000" in open_chain(three[1].path, verify=False).obstacle()


def test_without_verification_pages_are_not_read(three: list[Made]) -> None:
    flip(three[0].pages_file(), 0)
    assert open_chain(three[2].path, verify=False).dump_id == three[2].id


def test_a_pre_dump_is_a_parent_and_not_restorable(make_dump: Maker) -> None:
    first = make_dump("1", {NAME: {0: 1}}, kind=PRE_DUMP)
    second = make_dump("2", {NAME: {0: "parent"}}, first)
    assert open_chain(second.path).restorable()
    chain = open_chain(first.path)
    assert chain.top.kind == PRE_DUMP
    assert not chain.restorable()
    assert "is a pre-dump" in chain.obstacle()


def test_shared_memory_pagemaps_are_chained_too(make_dump: Maker, read_back: Reader) -> None:
    first = make_dump("1", {NAME: {0: 1}, "pagemap-shmem-5": {0: 2, 1: 3}})
    second = make_dump("2", {NAME: {0: "parent"}, "pagemap-shmem-5": {0: "parent", 1: 4}}, first)
    assert read_back(second.path, "pagemap-shmem-5") == {0: 2, 1: 4}
    assert read_back(second.path, NAME) == {0: 1}
