# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""dedup with keep_restorable frees zeros and what the parent has too, and every dump restores as before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Dict, List, Mapping

import pytest
from killed import in_memory, killed_before
from made_dumps import Made, Maker

from _engine.dedup import dedup
from _engine.errors import ChainError
from _engine.images.chain import open_chain
from _engine.images.pagemap import PAGE_SIZE

Reader = Callable[[str, str], Mapping[int, int]]
NAME, SHARED = "pagemap-100", "pagemap-shmem-5"
CONTENT: Dict[str, Dict[str, Dict[int, int]]] = {
    "1": {NAME: {0: 10, 1: 0, 2: 12, 3: 13}, SHARED: {0: 1, 1: 0, 2: 3}},
    "2": {NAME: {0: 10, 1: 0, 2: 22, 3: 13, 4: 0}, SHARED: {0: 1, 1: 0, 2: 3}},
    "3": {NAME: {0: 10, 1: 31, 2: 22, 3: 13, 4: 0}, SHARED: {0: 1, 1: 0, 2: 9}},
}


@pytest.fixture
def three(make_dump: Maker) -> List[Made]:
    """Return a chain whose shared memory is written whole by every dump, and page 3 again although it is the same."""
    first = make_dump("1", CONTENT["1"])
    second = make_dump("2", {NAME: {0: "parent", 1: "parent", 2: 22, 3: 13, 4: 0}, SHARED: CONTENT["2"][SHARED]}, first)
    third = make_dump("3", {NAME: {0: "parent", 1: 31, 2: 22, 3: 13, 4: 0}, SHARED: CONTENT["3"][SHARED]}, second)
    return [first, second, third]


def blocks(root: str) -> int:
    return sum(path.stat().st_blocks * 512 for path in Path(root).glob("*/pages-*.img"))


def content(read_back: Reader, root: str) -> Dict[str, Dict[str, Mapping[int, int]]]:
    return {number: {name: read_back(f"{root}/{number}", name) for name in (NAME, SHARED)} for number in CONTENT}


def test_every_dump_restores_as_before(three: List[Made], read_back: Reader) -> None:
    root = os.path.dirname(three[0].path)
    before = blocks(root)
    told = dedup(three[2].path, check=True, keep_restorable=True)
    assert blocks(root) == before
    result = dedup(three[2].path, keep_restorable=True)
    assert content(read_back, root) == CONTENT
    assert all(open_chain(made.path).restorable() for made in three) and result.punched == ()
    assert result.bytes_freed == before - blocks(root) and told.bytes_freed > 0
    left = [os.path.getsize(made.pages_file(number)) // PAGE_SIZE for made in three for number in (1, 2)]
    assert left == [4, 3, 2, 0, 1, 1], "22 and the zero of page 4; 31 and the one changed page of shared memory"
    assert blocks(root) == (3 + 2 + 1 + 0 + 1 + 1) * PAGE_SIZE, "and no zeros"
    assert sorted(os.listdir(root)) == ["1", "2", "3"]
    assert dedup(three[2].path, keep_restorable=True).bytes_freed == 0


def test_damaged_pages_are_not_blessed(three: List[Made]) -> None:
    with open(three[1].pages_file(), "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(ChainError, match="/2/pages-1.img is damaged"):
        dedup(three[2].path, keep_restorable=True)


def test_what_has_lost_pages_is_left_alone(three: List[Made], read_back: Reader) -> None:
    dedup(three[2].path)
    dedup(three[2].path, keep_restorable=True)
    assert read_back(three[2].path, NAME) == CONTENT["3"][NAME] and read_back(three[2].path, SHARED) == CONTENT["3"][SHARED]


def test_many_pages_that_differ_here_and_there(make_dump: Maker, read_back: Reader) -> None:
    first = make_dump("1", {NAME: {page: page % 3 * 7 for page in range(1000)}})
    second = make_dump("2", {NAME: {page: 255 if page % 50 == 0 else page % 3 * 7 for page in range(5, 1040)}}, first)
    expected = read_back(second.path, NAME)
    dedup(second.path, keep_restorable=True)
    assert read_back(second.path, NAME) == expected


def test_killed_before_any_change_to_the_disk(three: List[Made], read_back: Reader) -> None:
    step, ended = 0, False
    while not ended:
        with in_memory(three) as root:
            ended = not killed_before(step, lambda folder=root: dedup(f"{folder}/3", keep_restorable=True))
            assert content(read_back, root) == CONTENT, step
            dedup(f"{root}/3", keep_restorable=True)
            assert content(read_back, root) == CONTENT and sorted(os.listdir(root)) == ["1", "2", "3"], step
            assert blocks(root) == 8 * PAGE_SIZE
        step += 7  # each alone is the same as for squash
    assert step > 60
