# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pagemaps as CRIU of any version writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _engine.errors import ImagesError
from _engine.images import schema
from _engine.images.image import ImagesDir
from _engine.images.pagemap import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT, Pagemap, Run, read_pagemap, write_pagemap

START = 0x7F0000000000


@pytest.fixture
def images(tmp_path: Path) -> ImagesDir:
    return ImagesDir(str(tmp_path))


def write_raw(images: ImagesDir, *entries: Any) -> None:
    head = schema.message("pagemap_head")(pages_id=3)
    images.write("pagemap-7", [head, *(schema.message("pagemap_entry")(**entry) for entry in entries)])


@pytest.mark.parametrize("name", ["pagemap-7", "pagemap-shmem-9"])
def test_round_trip(images: ImagesDir, name: str) -> None:
    pagemap = Pagemap(3, (Run(0, 1, False), Run(PAGE_SIZE, 5, True), Run(START, 1 << 20, False)))
    write_pagemap(images, name, pagemap)
    assert read_pagemap(images, name) == pagemap


def test_both_counts_are_written(images: ImagesDir) -> None:
    write_pagemap(images, "pagemap-7", Pagemap(3, (Run(START, 5, True), Run(START + 5 * PAGE_SIZE, 2, False))))
    _head, parent, present = images.read("pagemap-7")
    assert (parent.compat_nr_pages, parent.nr_pages, parent.flags) == (5, 5, PE_PARENT)
    assert (present.compat_nr_pages, present.nr_pages, present.flags) == (2, 2, PE_PRESENT)


def test_a_run_too_long_for_the_old_count_is_split(images: ImagesDir) -> None:
    write_pagemap(images, "pagemap-7", Pagemap(3, (Run(0, (1 << 32) + 1, True),)))
    entries = images.read("pagemap-7")[1:]
    assert [entry.compat_nr_pages for entry in entries] == [(1 << 32) - 1, 2]
    assert read_pagemap(images, "pagemap-7").runs[1] == Run(((1 << 32) - 1) * PAGE_SIZE, 2, True)


@pytest.mark.parametrize(
    ("entry", "run"),
    [
        ({"compat_nr_pages": 2}, Run(START, 2, False)),
        ({"compat_nr_pages": 2, "in_parent": False}, Run(START, 2, False)),
        ({"compat_nr_pages": 2, "in_parent": True}, Run(START, 2, True)),
        ({"compat_nr_pages": 2, "flags": PE_PRESENT | PE_LAZY}, Run(START, 2, False)),
        ({"compat_nr_pages": 2, "flags": PE_PARENT}, Run(START, 2, True)),
        ({"compat_nr_pages": 0, "nr_pages": 2, "flags": PE_PRESENT}, Run(START, 2, False)),
        ({"compat_nr_pages": 0, "nr_pages": 1 << 33, "flags": PE_PARENT}, Run(START, 1 << 33, True)),
    ],
)
def test_pagemaps_of_other_versions(images: ImagesDir, entry: Any, run: Run) -> None:
    write_raw(images, {"vaddr": START, **entry})
    assert read_pagemap(images, "pagemap-7") == Pagemap(3, (run,))


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([{"vaddr": START + 1, "compat_nr_pages": 1}], "damaged: it has 1 pages at 7f0000000001"),
        ([{"vaddr": START, "compat_nr_pages": 0}], "damaged: it has 0 pages"),
        ([{"vaddr": START, "compat_nr_pages": 0, "nr_pages": 1 << 60}], "damaged: it has"),
        ([{"vaddr": START, "compat_nr_pages": 2}, {"vaddr": START + PAGE_SIZE, "compat_nr_pages": 1}], "its pages at 7f0000001000"),
        ([{"vaddr": START, "compat_nr_pages": 1, "flags": PE_LAZY}], "lazy-pages server"),
    ],
)
def test_nonsense_is_refused(images: ImagesDir, entries: Any, sentence: str) -> None:
    write_raw(images, *entries)
    with pytest.raises(ImagesError, match=sentence):
        read_pagemap(images, "pagemap-7")


def test_a_pagemap_without_a_head(images: ImagesDir) -> None:
    images.write("pagemap-7", [])
    with pytest.raises(ImagesError, match="pagemap-7.img is empty"):
        read_pagemap(images, "pagemap-7")
