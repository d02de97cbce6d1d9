# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""dedup frees what the newest dump does not read, nothing else, and says what it cost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Tuple

import pytest
from made_dumps import Made, Maker

import _engine.dedup as deduplicating
import _engine.images.punch as punching
from _engine.dedup import dedup
from _engine.errors import ChainError, ImagesError
from _engine.images import directory
from _engine.images.chain import open_chain
from _engine.images.checksum import CRC32, SUMMED, fastest
from _engine.images.manifest import CRIU, read_manifest
from _engine.images.pagemap import PAGE_SIZE
from _engine.verify import verify

Reader = Callable[[str, str], Mapping[int, int]]
NAME, EXITED = "pagemap-100", "pagemap-101"


@pytest.fixture
def three(make_dump: Maker) -> List[Made]:
    first = make_dump("1", {NAME: {0: 10, 1: 11, 2: 12, 3: 13, 7: 17}, EXITED: {0: 99, 1: 98}})
    second = make_dump("2", {NAME: {0: "parent", 1: 21, 2: 22, 3: "parent", 4: 24}, EXITED: {0: "parent", 1: 97}}, first)
    third = make_dump("3", {NAME: {0: "parent", 1: "parent", 2: 32, 3: "parent", 4: 34, 9: 39}}, second)
    return [first, second, third]


def blocks(made: List[Made]) -> int:
    return sum(os.stat(path).st_blocks * 512 for one in made for path in Path(one.path).glob("pages-*.img"))


def content(made: Made, number: int = 1) -> List[int]:
    data = Path(made.pages_file(number)).read_bytes()
    return [data[start] for start in range(0, len(data), PAGE_SIZE)]


def snapshot(made: List[Made]) -> Dict[Path, Tuple[bytes, int]]:
    paths = [path for one in made for path in Path(one.path).iterdir() if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def damages(made: Made) -> List[str]:
    return [fault.path for fault in verify(made.path).faults if "does not match" in fault.why]


def test_parents_lose_what_the_newest_does_not_read(three: List[Made], read_back: Reader) -> None:
    before = blocks(three)
    result = dedup(three[2].path)
    assert read_back(three[2].path, NAME) == {0: 10, 1: 21, 2: 32, 3: 13, 4: 34, 9: 39}
    assert content(three[0]) == [10, 0, 0, 13, 0], "page 1 by the middle, page 2 by both, page 7 was unmapped"
    assert content(three[1]) == [21, 0, 0]
    assert content(three[0], 2) == [0, 0] and content(three[1], 2) == [0], "the task has exited"
    assert result.pages_punched == 8
    assert result.bytes_before == before
    assert result.bytes_after == blocks(three)
    assert result.bytes_freed == 8 * PAGE_SIZE == before - result.bytes_after
    assert result.punched == (three[1].path, three[0].path)


def test_a_second_run_changes_nothing(three: List[Made]) -> None:
    dedup(three[2].path)
    before = snapshot(three)
    result = dedup(three[2].path)
    assert (result.pages_punched, result.bytes_freed, result.punched) == (0, 0, ())
    assert snapshot(three) == before


def test_check_tells_and_touches_nothing(three: List[Made]) -> None:
    before = snapshot(three)
    told = dedup(three[2].path, check=True)
    assert snapshot(three) == before
    assert told == dedup(three[2].path)


def test_punched_dumps_are_said_not_to_restore(three: List[Made], read_back: Reader) -> None:
    dedup(three[2].path)
    assert open_chain(three[2].path).restorable()
    for made in three[:2]:
        chain = open_chain(made.path, verify=False)
        assert not chain.restorable()
        assert "dedup freed" in chain.obstacle()
        with pytest.raises(ChainError, match="no longer holds the page at .* of pagemap-10[01].*restore that newer dump"):
            open_chain(made.path)


def test_a_dump_below_the_one_given_is_kept_whole_for_it(three: List[Made], read_back: Reader) -> None:
    """Deduplicated for the middle dump, the newest goes on restoring, and so does the middle one."""
    dedup(three[1].path)
    assert read_back(three[1].path, NAME) == {0: 10, 1: 21, 2: 22, 3: 13, 4: 24}
    assert read_back(three[2].path, NAME) == {0: 10, 1: 21, 2: 32, 3: 13, 4: 34, 9: 39}
    assert content(three[2]) == [32, 34, 39]


def test_flips_are_still_noticed_in_what_is_left(three: List[Made]) -> None:
    dedup(three[2].path)
    with open(three[0].pages_file(), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 3 * PAGE_SIZE)
    with pytest.raises(ChainError, match="/1/pages-1.img is damaged between"):
        open_chain(three[2].path)


@pytest.mark.parametrize("page", [2, 3], ids=["in what goes", "in what stays"])
def test_a_damaged_parent_is_not_blessed(three: List[Made], page: int) -> None:
    """The damage is noticed as it was before: what goes is only taken off the checksums."""
    with open(three[0].pages_file(), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", page * PAGE_SIZE)
    dedup(three[2].path)
    with pytest.raises(ChainError, match="/1/pages-1.img is damaged"):
        open_chain(three[2].path)


@pytest.mark.parametrize("algorithm", [CRC32, CRC32 + SUMMED, fastest(), fastest().replace(SUMMED, "")])
def test_checksums_after_all_and_after_a_part_went(
    make_dump: Maker, read_back: Reader, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every stretch with some pages gone, of one that is gone as a whole, and of one that goes in two runs."""
    monkeypatch.setattr(directory, "fastest", lambda: algorithm)
    pages = 1000
    first = make_dump("1", {NAME: {page: page % 250 + 1 for page in range(pages)}})
    gone = {page for page in range(pages) if page % 7 == 0 or 256 <= page < 512}
    second = make_dump("2", {NAME: {page: 251 if page in gone else "parent" for page in range(pages)}}, first)
    assert dedup(second.path).pages_punched == len(gone)
    rest = {page for page in range(pages) if page % 5 == 0} | set(range(700, 1000))
    third = make_dump("3", {NAME: {page: 252 if page in rest else "parent" for page in range(pages)}}, second)
    assert dedup(third.path).pages_punched == len(rest)
    kept = {page: 252 if page in rest else 251 if page in gone else page % 250 + 1 for page in range(pages)}
    assert read_back(third.path, NAME) == kept and not damages(third)
    with open(first.pages_file(), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 513 * PAGE_SIZE)
    assert damages(third) == [first.pages_file()]


def test_a_damaged_parent_without_sums_frees_nothing(make_dump: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """New checksums of before are taken only of what matches the old ones; and then nothing at all is changed."""
    monkeypatch.setattr(directory, "fastest", lambda: CRC32)
    first = make_dump("a", {NAME: {0: 10, 1: 11}})
    second = make_dump("b", {NAME: {0: "parent", 1: 21}}, first)
    with open(first.pages_file(), "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 0)
    before = snapshot([first, second])
    with pytest.raises(ChainError, match="/a/pages-1.img is damaged"):
        dedup(second.path)
    assert snapshot([first, second]) == before


def test_a_damaged_pagemap_frees_nothing(three: List[Made]) -> None:
    with open(three[2].path + "/pagemap-100.img", "r+b") as file:
        os.pwrite(file.fileno(), b"\x05", 30)
    before = snapshot(three)
    with pytest.raises(ChainError, match="pagemap-100.img is damaged"):
        dedup(three[2].path)
    assert snapshot(three) == before


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.mark.parametrize("survived", range(11))
def test_killed_at_any_step_the_newest_restores(
    three: List[Made], read_back: Reader, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Killed before the SURVIVED-th change to the disk, and then run again to its end."""
    steps = iter(range(1000))

    def count(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*args: object) -> object:
            if next(steps) >= survived:
                raise Killed
            return change(*args)

        return changed

    with monkeypatch.context() as patch:
        one_hole = count(punching.punch_holes)
        patch.setattr(deduplicating, "rewrite_pages", count(deduplicating.rewrite_pages))
        patch.setattr(punching, "punch_holes", lambda fd, ranges: [one_hole(fd, [one]) for one in ranges])
        with pytest.raises(Killed):
            dedup(three[2].path)
    expected = {0: 10, 1: 21, 2: 32, 3: 13, 4: 34, 9: 39}
    assert read_back(three[2].path, NAME) == expected
    for made in three[:2]:
        chain = open_chain(made.path, verify=False)
        if chain.restorable():
            open_chain(made.path)
    dedup(three[2].path)
    assert read_back(three[2].path, NAME) == expected
    assert content(three[0]) == [10, 0, 0, 13, 0] and content(three[1]) == [21, 0, 0]


def test_a_filesystem_without_holes(three: List[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_args: object) -> None:
        raise OSError(95, "Operation not supported")

    before = {path: one[0] for path, one in snapshot(three).items()}
    monkeypatch.setattr(punching, "punch_holes", unsupported)
    with pytest.raises(ImagesError, match="cannot free parts of a file .no hole punching.; keep the dumps on ext4"):
        dedup(three[2].path)
    assert {path: one[0] for path, one in snapshot(three).items()} == before


def test_dumps_by_criu_get_a_marker(three: List[Made], read_back: Reader) -> None:
    for made in three:
        os.unlink(made.path + "/stillframe.json")
    dedup(three[2].path)
    assert read_back(three[2].path, NAME) == {0: 10, 1: 21, 2: 32, 3: 13, 4: 34, 9: 39}
    assert content(three[0]) == [10, 0, 0, 13, 0]
    manifest = read_manifest(three[0].path)
    assert manifest is not None and manifest.made_by == CRIU and manifest.id == ""
    assert not os.path.exists(three[2].path + "/stillframe.json")
    assert not open_chain(three[0].path, verify=False).restorable()
    assert dedup(three[2].path).pages_punched == 0


def test_shared_memory(make_dump: Maker, read_back: Reader) -> None:
    first = make_dump("1", {"pagemap-shmem-5": {0: 2, 1: 3, 2: 4}})
    second = make_dump("2", {"pagemap-shmem-5": {0: "parent", 1: 9}}, first)
    assert dedup(second.path).pages_punched == 2
    assert read_back(second.path, "pagemap-shmem-5") == {0: 2, 1: 9}
    assert content(first) == [2, 0, 0]


def test_many_scattered_pages(make_dump: Maker, read_back: Reader) -> None:
    """Every third page of several stretches is superseded."""
    pages = 1000
    first = make_dump("1", {NAME: {page: page % 250 + 1 for page in range(pages)}})
    second = make_dump("2", {NAME: {page: 255 if page % 3 == 0 else "parent" for page in range(pages)}}, first)
    assert dedup(second.path).pages_punched == 334
    assert read_back(second.path, NAME) == {page: 255 if page % 3 == 0 else page % 250 + 1 for page in range(pages)}
    assert dedup(second.path).pages_punched == 0


def test_a_full_dump_has_nothing_to_free(make_dump: Maker) -> None:
    made = make_dump("1", {NAME: {0: 1}})
    result = dedup(made.path)
    assert (result.pages_punched, result.bytes_freed) == (0, 0)
    assert "has no parent" in result.warnings[0]


def test_what_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="holds no finished dump"):
        dedup(str(tmp_path))
