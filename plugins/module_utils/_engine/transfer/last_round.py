# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of the last round: what the ground can take goes straight there, as in every round, and only the rest into images.

So the other host has put it in its place while the state of the tree is still being read, and the pagemap of a process, in
which all of that counts as sent before, is short however many pages are scattered over its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, List, Optional

from ..images.pagemap import PAGE_SIZE, Run
from ..images.ranges import Range, difference, intersection, union
from ..kernel.hugetlb import MAP_HUGETLB
from ..resources.memory.pages import PageRuns, PagesFile
from .ground_memory import is_ground
from .sending import StreamedPages
from .wire import Link


def ground_of(vmas: Sequence[Any]) -> List[Any]:
    """Return those of VMAS, vma_entry messages, whose pages may be sent ahead of the images."""
    return [vma for vma in vmas if is_ground(vma) and not vma.flags & MAP_HUGETLB]


class LastPages(PagesFile):
    """The pages of one process: those in GROUND go into LINK, the others into the file."""

    def __init__(
        self, link: Link, ground: Sequence[Range], path: str, algorithm: str, runs: PageRuns, count: Callable[[int], None]
    ) -> None:
        written = [(run.start, run.end) for run in runs if not run.in_parent]
        streamed, rest = list(intersection(written, ground)), list(difference(written, ground))
        super().__init__(path, algorithm, _as_runs(rest), count)
        self._streamed = StreamedPages(link, path, algorithm, _as_runs(streamed), count)
        self._there = union(streamed, ((run.start, run.end) for run in runs if run.in_parent))

    def copy(self, pid: int, early: Optional[bool] = None, tolerant: bool = False) -> List[int]:
        """Send and write the pages of PID, which stands still. Raises MoveError, ImagesError, TargetError."""
        self._streamed.copy(pid, early)
        return super().copy(pid, early)

    def for_pagemap(self) -> Iterator[Run]:
        """Yield the runs: what was sent, now or before, as in the parent."""
        there = [Run(start, (end - start) // PAGE_SIZE, True) for start, end in self._there]
        yield from sorted([*there, *super().for_pagemap()])


def _as_runs(ranges: Sequence[Range]) -> PageRuns:
    runs = PageRuns()
    for start, end in ranges:
        runs.add(start, end, False)
    return runs
