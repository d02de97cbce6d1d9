# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A compressed dump is verified as it is, used by nobody, and comes back as it was."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Callable, Dict, List

import pytest
from killed import in_memory, killed_before
from made_dumps import Made, Maker

from _engine.cold import compress, decompress
from _engine.dedup import dedup
from _engine.errors import ChainError
from _engine.image_info import image_info
from _engine.images.chain import open_chain
from _engine.images.cold import is_cold
from _engine.images.directory import bytes_on_disk
from _engine.images.manifest import PRE_DUMP
from _engine.squash import squash
from _engine.verify import verify

pytest.importorskip("zstandard")
NAME = "pagemap-100"


@pytest.fixture
def two(make_dump: Maker, request: pytest.FixtureRequest) -> List[Made]:
    pages = range(12 if "killed" in request.node.name else 600)
    first = make_dump("1", {NAME: {page: page % 200 + 1 for page in pages}, "pagemap-101": {0: 9}}, kind=PRE_DUMP)
    second = make_dump("2", {NAME: {page: "parent" if page % 4 else 255 for page in pages}}, first, kind=PRE_DUMP)
    dedup(second.path)
    return [first, second]


def content(path: str) -> Dict[str, object]:
    return {one.name: one.read_bytes() for one in Path(path).iterdir() if one.is_file()}


def test_there_and_back(two: List[Made]) -> None:
    first = two[0].path
    before, size = content(first), bytes_on_disk(first)
    assert compress(first, check=True).files and content(first) == before
    result = compress(first)
    assert result.bytes_after < result.bytes_before // 4 and is_cold(two[0].pages_file()) and not os.path.exists(two[0].pages_file())
    assert os.stat(f"{two[0].pages_file()}.zst").st_mode & 0o777 == 0o600
    assert verify(two[1].path).sound and not compress(first).files
    decompress(first, check=True)
    assert decompress(first).bytes_after == size == bytes_on_disk(first), "holes are holes again"
    assert content(first) == before and verify(two[1].path).sound and not decompress(first).files


@pytest.mark.parametrize("work", [dedup, lambda path: dedup(path, keep_restorable=True), squash, open_chain])
def test_nobody_uses_it(two: List[Made], work: Callable[[str], object]) -> None:
    compress(two[0].path)
    before = [content(made.path) for made in two]
    with pytest.raises(ChainError, match="/1 is compressed; make it ready first: stillframe decompress --images-dir .*/1$"):
        work(two[1].path)
    assert [content(made.path) for made in two] == before
    info = image_info(two[1].path)
    assert all("is compressed" in link.why_not or "pre-dump" in link.why_not for link in info.chain)


def test_every_flipped_bit_is_found_or_changes_nothing(two: List[Made]) -> None:
    expected = content(two[0].path)
    compress(two[0].path)
    path = Path(f"{two[0].pages_file()}.zst")
    whole, dice, unnoticed = path.read_bytes(), random.Random(9), 0
    places = sorted({*range(20), *range(len(whole) - 20, len(whole)), *dice.sample(range(len(whole)), 80)})
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :])
        faults = verify(two[1].path).faults
        assert not faults or {fault.path for fault in faults} == {str(path)}
        unnoticed += not faults
        if faults and place % 10 == 0:
            with pytest.raises(ChainError, match="zst is damaged"):
                decompress(two[0].path)
            assert is_cold(two[0].pages_file())
    assert unnoticed < len(places) // 10
    path.write_bytes(whole[:-9])
    assert not verify(two[1].path).sound
    path.write_bytes(whole)
    decompress(two[0].path)
    assert content(two[0].path) == expected


def test_a_damaged_dump_is_not_compressed(two: List[Made]) -> None:
    with open(two[0].pages_file(), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 4096)
    with pytest.raises(ChainError, match="pages-1.img is damaged"):
        compress(two[0].path)
    assert not is_cold(two[0].pages_file())


@pytest.mark.parametrize("work", [compress, decompress])
def test_killed_at_every_step(two: List[Made], work: Callable[[str], object]) -> None:
    with in_memory(two) as folder:
        path = os.path.join(folder, "1")
        expected = content(path)
        undo = decompress if work is compress else compress
        if work is decompress:
            compress(path)
        step = 0
        while killed_before(step, lambda: work(path)):
            assert verify(os.path.join(folder, "2")).sound, step
            work(path)
            decompress(path)
            assert content(path) == expected
            if undo is compress:
                compress(path)
            step += 1
        decompress(path)
        assert content(path) == expected and step > 3
