# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps made of known bytes: their files are real, their tasks never ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence, Union

from _engine.images.directory import DumpDirectory
from _engine.images.manifest import Tree
from _engine.images.pagemap import PAGE_SIZE, Pagemap, Run, pages_path, write_pagemap

BASE = 0x10000000
TREE = Tree(pid=100, start_time=4711, boot_id="b")
Page = Union[int, str]
"""The byte that a page is filled with, or "parent"."""


@dataclass(frozen=True)
class Made:
    """One dump that was made."""

    path: str
    id: str

    def pages_file(self, number: int = 1) -> str:
        return pages_path(self.path, number)


Maker = Callable[..., Made]


def address(page: int) -> int:
    return BASE + page * PAGE_SIZE


def runs_of(pages: Mapping[int, Page]) -> Sequence[Run]:
    """Return one run for each page of PAGES, by its number."""
    return tuple(Run(address(number), 1, pages[number] == "parent") for number in sorted(pages))


def fill(images_dir: str, tasks: Mapping[str, Mapping[int, Page]], directory: DumpDirectory) -> None:
    for number, (name, pages) in enumerate(tasks.items(), 1):
        write_pagemap(directory.images, name, Pagemap(number, tuple(runs_of(pages))))
        with open(pages_path(images_dir, number), "wb") as file:
            for page in sorted(pages):
                if pages[page] != "parent":
                    file.write(bytes([int(pages[page])]) * PAGE_SIZE)
