# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of our own hold content, from the entries of /proc/self/pagemap."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest
from _engine.kernel import pagemap, zero_page

PAGES = 70_000
"""More than are looked at in one go."""
WRITTEN, READ = (0, 3, 65_535, 65_536, 69_999), (1, 4, 40_000, 65_537)


@pytest.fixture
def area() -> Iterator[tuple[int, int]]:
    """Yield a descriptor of our pagemap and the address of PAGES pages, of which some were written and some only read."""
    memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in WRITTEN:
        memory[page * mmap.PAGESIZE] = 1
    for page in READ:
        assert memory[page * mmap.PAGESIZE] == 0
    fd = pagemap.open_pagemap(os.getpid())
    yield fd, ctypes.addressof(ctypes.c_char.from_buffer(memory))
    os.close(fd)


def categories(area: tuple[int, int]) -> dict[int, int]:
    fd, start = area
    runs = pagemap.filled_by_entries(fd, start, start + PAGES * mmap.PAGESIZE)
    return {(at - start) // mmap.PAGESIZE: run.categories for run in runs for at in range(run.start, run.end, mmap.PAGESIZE)}


@pytest.mark.skipif(not zero_page.told_apart(), reason="page frames are hidden from us: run as root")
def test_the_zero_page_is_told_by_its_frame(area: tuple[int, int]) -> None:
    found = categories(area)
    assert sorted(found) == sorted(WRITTEN + READ)
    assert {page for page, bits in found.items() if bits & pagemap.PAGE_IS_PFNZERO} == set(READ)


def test_what_may_be_the_zero_page_counts_as_changed_if_frames_are_hidden(area: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_page, "told_apart", lambda: False)
    found = categories(area)
    assert sorted(found) == sorted(WRITTEN + READ)
    assert all(found[page] & pagemap.PAGE_IS_SOFT_DIRTY and not found[page] & pagemap.PAGE_IS_PFNZERO for page in READ)
