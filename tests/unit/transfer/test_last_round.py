# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The last round: what goes straight to its place, what goes into images, and what the pagemap says of both."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

from _engine.images.checksum import fastest
from _engine.images.pagemap import PAGE_SIZE, Run
from _engine.resources.memory.pages import PageRuns
from _engine.transfer.codec import unpack_pages
from _engine.transfer.last_round import LastPages
from _engine.transfer.wire import PAGES


class _Link:
    """Takes frames."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []

    def send(self, kind: int, *parts: Any) -> None:
        self.frames.append((kind, b"".join(parts)))


def test_pages_of_the_ground_are_sent_and_the_others_written(tmp_path: Path) -> None:
    memory = mmap.mmap(-1, 6 * PAGE_SIZE)
    memory[:] = b"".join(bytes([1 + number]) * PAGE_SIZE for number in range(6))
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    at = [start + number * PAGE_SIZE for number in range(7)]
    runs = PageRuns()
    runs.add(at[0], at[1], in_parent=True)
    runs.add(at[1], at[4], in_parent=False)
    runs.add(at[5], at[6], in_parent=False)
    link, path, counted = _Link(), tmp_path / "pages-1.img", list[int]()
    with LastPages(link, [(at[0], at[3])], str(path), fastest(), runs, counted.append) as pages:  # type: ignore[arg-type]
        pages.copy(os.getpid())
        assert list(pages.for_pagemap()) == [Run(at[0], 3, True), Run(at[3], 1, False), Run(at[5], 1, False)]
        assert pages.record().size == 2 * PAGE_SIZE
    assert path.read_bytes() == bytes([4]) * PAGE_SIZE + bytes([6]) * PAGE_SIZE
    ((kind, body),) = link.frames
    assert kind == PAGES
    _pid, pieces, data = unpack_pages(memoryview(body))
    assert pieces == [(at[1], 2 * PAGE_SIZE)] and bytes(data) == bytes([2]) * PAGE_SIZE + bytes([3]) * PAGE_SIZE
    assert sum(counted) == 4 * PAGE_SIZE
