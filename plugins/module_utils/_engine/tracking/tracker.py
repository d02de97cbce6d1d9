# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What every tracker offers: which pages of a mapping hold content, and which of them changed since the last reset."""

from __future__ import annotations

import os
from typing import Iterator, Protocol, Tuple

from ..kernel import pagemap
from ..resources.memory.mapping import VMA_AREA_AIORING, VMA_AREA_VDSO, Mapping


class Contents:
    """The content of one mapping, told by the kernel and yet to be sorted out: as a task stands still meanwhile, that can wait."""

    def __init__(self, runs: pagemap.Runs, unwanted: int, dirty: int) -> None:
        self._runs = runs
        self._unwanted = unwanted
        self._dirty = dirty

    def __len__(self) -> int:
        """Return an upper bound of the number of parts."""
        return len(self._runs)

    def __iter__(self) -> Iterator[Tuple[int, int, bool]]:
        """Yield start and end of neighbouring pages with content of the process's own, and whether they may have changed since."""
        unwanted, dirty = self._unwanted, self._dirty
        for start, end, categories in self._runs.triples():
            if not categories & unwanted:
                yield start, end, not dirty or categories & dirty != 0


class Tracker(Protocol):
    """The tracker of one process. What it tells is exact only while the process stands still."""

    name: str

    def content(self, mapping: Mapping, reset: bool) -> Contents:
        """Return the content of MAPPING; with RESET the pages count as clean from now on, once `settle` was called."""

    def reset(self, mapping: Mapping) -> None:
        """Let the pages of MAPPING count as clean from now on, once `settle` was called, without telling them."""

    def settle(self) -> None:
        """Complete a reset, when the content of all mappings was asked for."""

    def close(self) -> None:
        """Drop our descriptors. The tracker itself goes on in the process."""


class Pagemap:
    """The pagemap of a process, by whichever interface the kernel has."""

    def __init__(self, pid: int) -> None:
        self._fd = pagemap.open_pagemap(pid)
        self._scan = pagemap.has_scan(self._fd)
        self._without = pagemap.PAGE_IS_GUARD if pagemap.tells_guards(self._fd) else 0

    def content(self, mapping: Mapping, dirty: int, protect: bool = False) -> Contents:
        """Return the content of MAPPING; DIRTY is the category that tells a changed page, 0 for all are.

        A page of a file is not the process's own, but the vDSO is dumped as a file's pages, and an AIO ring whole: the kernel
        writes to pages of it that the process has not seen yet.
        """
        if mapping.status & VMA_AREA_AIORING:
            return Contents(pagemap.Runs([pagemap.Run(mapping.start, mapping.end, 0)]), 0, 0)
        unwanted = pagemap.PAGE_IS_PFNZERO | (0 if mapping.status & VMA_AREA_VDSO else pagemap.PAGE_IS_FILE)
        if self._scan:
            runs = pagemap.filled(self._fd, mapping.start, mapping.end, dirty, protect, bool(mapping.area.inode), self._without)
        else:
            runs = pagemap.Runs(pagemap.filled_by_entries(self._fd, mapping.start, mapping.end))
        return Contents(runs, unwanted, dirty)

    def protect(self, mapping: Mapping) -> None:
        """Write-protect the pages of MAPPING, which is registered for it."""
        pagemap.protect(self._fd, mapping.start, mapping.end)

    def close(self) -> None:
        """Close our descriptor."""
        os.close(self._fd)


class NoTracker:
    """Tells what holds content, and that all of it changed."""

    name = "none"

    def __init__(self, pid: int) -> None:
        self._pagemap = Pagemap(pid)

    def content(self, mapping: Mapping, reset: bool) -> Contents:
        """Return the content of MAPPING."""
        return self._pagemap.content(mapping, 0)

    def reset(self, mapping: Mapping) -> None:
        """There is nothing to be reset."""

    def settle(self) -> None:
        """Nothing is reset."""

    def close(self) -> None:
        """Close our descriptor."""
        self._pagemap.close()
