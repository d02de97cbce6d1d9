# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How a tree writes to its memory, told without a trace in it: pages of it are read again and again, and compared with how they were.

Trackers would tell it exactly, but need a stop to be made and one to be taken out again, and resetting one that is there would
lose what the next dump is to be told. So this reads a sample of the pages, taken at equal distances. What it does not see is
a page that was written to with what it held already, and what lies between the pages of the sample.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ..images.shared_objects import VMA_AREA_SYSVIPC
from ..kernel import procfs
from ..kernel.memory import MemoryReader
from ..kernel.pagemap import PAGE_SIZE
from ..resources.memory.mapping import VMA_AREA_MEMFD, Mapping, survey
from ..transfer.forecast import Writing
from .tracker import NoTracker

_SAMPLE = 8192
"""Pages of the tree that are read."""
_MOMENTS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds from the first look to each of the others."""


def measure(pids: Sequence[int]) -> Writing:
    """Watch the tree of PIDS for a second, while it runs. Raises OSError when it may not be read."""
    runs: dict[int, list[tuple[int, int]]] = {}
    rest, seen = 0, set[tuple[str, int]]()
    for pid in pids:
        with suppress(*procfs.GONE):
            mappings = survey(pid)
            runs[pid] = list(_content(pid, [mapping for mapping in mappings if mapping.trackable]))
            others = _content(pid, [mapping for mapping in mappings if mapping.holds_pages and not mapping.trackable])
            rest += sum(end - start for start, end in others) + _shared(pid, mappings, seen)
    pages = sum(end - start for found in runs.values() for start, end in found) // PAGE_SIZE
    step = max(1, -(-pages // _SAMPLE))
    samples = [_Sample(pid, list(_picked(found, step))) for pid, found in runs.items()]
    begin = time.monotonic()
    for sample in samples:
        sample.begin()
    curve = []
    for moment in _MOMENTS:
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        at = time.monotonic() - begin
        curve.append((at, min(pages, step * sum(sample.changed() for sample in samples))))
    return Writing(pages, rest, tuple(curve))


def _content(pid: int, mappings: Sequence[Mapping]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the pages of PID that have content in MAPPINGS."""
    tracker = NoTracker(pid)
    try:
        for mapping in mappings:
            for start, end, _dirty in tracker.content(mapping, False):
                yield start, end
    finally:
        tracker.close()


def _shared(pid: int, mappings: Sequence[Mapping], seen: set[tuple[str, int]]) -> int:
    """Return the bytes of shared memory of PID that are not SEEN yet."""
    found = 0
    for area in (mapping.area for mapping in mappings if mapping.status & (VMA_AREA_MEMFD | VMA_AREA_SYSVIPC)):
        if (area.device, area.inode) not in seen:
            seen.add((area.device, area.inode))
            found += os.stat(f"/proc/{pid}/map_files/{area.start:x}-{area.end:x}").st_blocks * 512
    return found


def _picked(runs: Sequence[tuple[int, int]], step: int) -> Iterator[int]:
    """Yield the address of each STEPth page of RUNS, counted through."""
    skip = step // 2
    for start, end in runs:
        yield from range(start + skip * PAGE_SIZE, end, step * PAGE_SIZE)
        skip = (skip - (end - start) // PAGE_SIZE) % step


class _Sample:
    """Some pages of one process, and how they were at first."""

    def __init__(self, pid: int, addresses: Sequence[int]) -> None:
        self._reader = MemoryReader(pid)
        self._addresses = addresses
        self._first = memoryview(bytearray())

    def begin(self) -> None:
        """Take note of how they are."""
        self._first = self._read()

    def changed(self) -> int:
        """Return how many are not as they were, or not there any more."""
        now, first = self._read(), self._first
        return sum(now[at : at + PAGE_SIZE] != first[at : at + PAGE_SIZE] for at in range(0, len(first), PAGE_SIZE))

    def _read(self) -> memoryview:
        """Return the pages one behind the other, zeros for those that are not there."""
        pages = memoryview(bytearray(len(self._addresses) * PAGE_SIZE))
        try:
            self._reader.read_into(pages, ((address, PAGE_SIZE) for address in self._addresses))
        except OSError:
            for at, address in enumerate(self._addresses):
                with suppress(OSError):
                    self._reader.read_into(pages[at * PAGE_SIZE : (at + 1) * PAGE_SIZE], [(address, PAGE_SIZE)])
        return pages
