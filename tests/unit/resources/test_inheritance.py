# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process is found to have in common with the one that forks it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest
from _engine.errors import ChainError
from _engine.images.chain import Extent
from _engine.images.schema import message
from _engine.resources.memory.inheritance import NOTHING, Content, Inheritance, find
from _engine.resources.memory.mapping import (
    MADV_DONTFORK,
    MADV_HUGEPAGE,
    MAP_LOCKED,
    VMA_ANON_PRIVATE,
    VMA_AREA_REGULAR,
    VMA_AREA_VDSO,
    VMA_FILE_PRIVATE,
)

PAGE = 4096
ANONYMOUS = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, "status": VMA_AREA_REGULAR | VMA_ANON_PRIVATE}
FILE = {"flags": mmap.MAP_PRIVATE, "status": VMA_AREA_REGULAR | VMA_FILE_PRIVATE, "shmid": 5}


def vma(first: int, last: int, **fields: Any) -> Any:
    """Return a mapping of the pages FIRST to LAST."""
    values = {"pgoff": 0, "shmid": 0, "prot": mmap.PROT_READ | mmap.PROT_WRITE, "fd": -1, **ANONYMOUS, **fields}
    return message("vma_entry")(start=first * PAGE, end=last * PAGE, **values)


def content(path: Path, vmas: list[Any], pages: dict[int, str], program: int = 1) -> Content:
    """Return the memory of a process whose PAGES, by their numbers, are each filled with a letter."""
    path.write_bytes(b"".join(letter.encode() * PAGE for letter in pages.values()))
    extents = [Extent(page * PAGE, 1, str(path), at * PAGE) for at, page in enumerate(pages)]
    mm = message("mm_entry")()
    mm.exe_file_id = program
    mm.vmas.extend(vmas)
    return Content(mm, extents, message("task_core_entry")())


def pages(found: Inheritance) -> list[tuple[int, int]]:
    return [(start // PAGE, end // PAGE) for start, end in found.pages]


def test_pages_that_are_the_same_are_kept_and_no_others(tmp_path: Path) -> None:
    maker = content(tmp_path / "maker", [vma(10, 20)], {10: "a", 11: "b", 12: "c", 15: "d", 16: "e"})
    child = content(tmp_path / "child", [vma(10, 20)], {10: "a", 11: "x", 12: "c", 14: "n", 16: "e"})
    found = find(child, maker)
    assert pages(found) == [(10, 11), (12, 13), (16, 17)]
    assert found.compared == 4 and found.size == 3
    assert [(start // PAGE, end // PAGE) for start, end in found.dropped()] == [(11, 12), (13, 16), (17, 20)]
    assert [(extent.start // PAGE, extent.pages, extent.offset // PAGE) for extent in found.left(child.extents)] == [(11, 1, 1), (14, 1, 3)]


def test_what_is_left_of_longer_extents(tmp_path: Path) -> None:
    extents = [Extent(10 * PAGE, 10, "pages", 7 * PAGE), Extent(30 * PAGE, 2, "more", 0)]
    found = Inheritance(((10 * PAGE, 40 * PAGE),), ((12 * PAGE, 14 * PAGE), (19 * PAGE, 20 * PAGE), (31 * PAGE, 32 * PAGE)))
    assert list(found.left(extents)) == [
        Extent(10 * PAGE, 2, "pages", 7 * PAGE),
        Extent(14 * PAGE, 5, "pages", 11 * PAGE),
        Extent(30 * PAGE, 1, "more", 0),
    ]
    assert list(NOTHING.left(extents)) == extents


@pytest.mark.parametrize(
    ("ours", "theirs", "shared"),
    [
        ([vma(10, 12)], [vma(8, 20)], True),
        ([vma(10, 12)], [vma(11, 20)], False),
        ([vma(10, 12)], [vma(10, 11), vma(11, 12)], False),
        ([vma(10, 12, prot=mmap.PROT_READ, madv=1 << MADV_DONTFORK)], [vma(10, 12, flags=ANONYMOUS["flags"] | MAP_LOCKED)], True),
        ([vma(10, 12)], [vma(10, 12, madv=1 << MADV_HUGEPAGE)], False),
        ([vma(10, 12, flags=0x20 | 0x02 | 0x100)], [vma(10, 12)], False),
        ([vma(10, 12, status=VMA_AREA_REGULAR | VMA_ANON_PRIVATE | VMA_AREA_VDSO)], [vma(10, 12)], False),
        ([vma(10, 12, **FILE)], [vma(10, 12)], False),
        ([vma(10, 12, **FILE)], [vma(10, 12, **FILE)], True),
        ([vma(10, 12, **{**FILE, "pgoff": 2 * PAGE})], [vma(8, 12, **FILE)], True),
        ([vma(10, 12, **FILE)], [vma(8, 12, **FILE)], False),
        ([vma(10, 12, **FILE)], [vma(10, 12, **{**FILE, "shmid": 6})], False),
    ],
)
def test_only_mappings_of_one_kind(tmp_path: Path, ours: list[Any], theirs: list[Any], shared: bool) -> None:
    maker, child = (content(tmp_path / name, vmas, {10: "a", 11: "b"}) for name, vmas in (("maker", theirs), ("child", ours)))
    found = find(child, maker)
    assert pages(found) == ([(10, 12)] if shared else [])
    assert found.vmas == (((10 * PAGE, 12 * PAGE),) if shared else ())


def test_neighbours_in_one_mapping_stay_two(tmp_path: Path) -> None:
    maker = content(tmp_path / "maker", [vma(10, 14)], {10: "a", 12: "b"})
    child = content(tmp_path / "child", [vma(10, 12), vma(12, 14)], {10: "a", 12: "b"})
    assert pages(find(child, maker)) == [(10, 11)]


def test_another_program_has_nothing_in_common(tmp_path: Path) -> None:
    maker, child = (content(tmp_path / str(number), [vma(10, 12)], {10: "a"}, number) for number in (1, 2))
    assert find(child, maker) == NOTHING


def test_pages_files_that_are_cut_short(tmp_path: Path) -> None:
    maker, child = (content(tmp_path / name, [vma(10, 12)], {10: "a", 11: "b"}) for name in ("maker", "child"))
    (tmp_path / "maker").write_bytes(b"a" * PAGE)
    with pytest.raises(ChainError, match="truncated"):
        find(child, maker)
