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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from ..images.ranges import Range, total
from ..images.shared_objects import VMA_AREA_SYSVIPC
from ..kernel import procfs
from ..kernel.memory import MemoryReader
from ..kernel.pagemap import PAGE_SIZE
from ..resources.memory.filled import filled_runs
from ..resources.memory.mapping import VMA_AREA_MEMFD, Mapping, survey
from ..transfer.forecast import Writing
from .tracker import NoTracker

_SAMPLE = 8192
"""Pages of the tree that are read."""
_MOMENTS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds from the first look to each of the others."""
_Read = Callable[[memoryview, Sequence[int]], None]


def measure(pids: Sequence[int]) -> Writing:
    """Watch the tree of PIDS for a second, while it runs. Raises OSError when it may not be read."""
    runs: dict[int, list[Range]] = {}
    rest = 0
    with ExitStack() as stack:
        shared: dict[tuple[int, int], tuple[int, list[Range]]] = {}
        for pid in pids:
            with suppress(*procfs.GONE):
                mappings = survey(pid)
                runs[pid] = list(_content(pid, [mapping for mapping in mappings if mapping.trackable]))
                others = _content(pid, [mapping for mapping in mappings if mapping.holds_pages and not mapping.trackable])
                rest += total(others) + sum(_open_shared(pid, mappings, shared, stack))
        readers: list[tuple[_Read, list[Range]]] = [(partial(_of_process, MemoryReader(pid)), found) for pid, found in runs.items()]
        readers += [(partial(_of_object, local), found) for local, found in shared.values()]
        curve, pages = _watched(readers)
    return Writing(pages, rest, curve, sum(total(found) for _local, found in shared.values()))


def _watched(readers: Sequence[tuple[_Read, list[Range]]]) -> tuple[tuple[tuple[float, int], ...], int]:
    """Return how many of the pages in the ranges that READERS read had changed when, and how many there are."""
    pages = sum(total(ranges) for _read, ranges in readers) // PAGE_SIZE
    step = max(1, -(-pages // _SAMPLE))
    samples = [_Sample(read, list(_picked(ranges, step))) for read, ranges in readers]
    begin = time.monotonic()
    for sample in samples:
        sample.begin()
    curve = []
    for moment in _MOMENTS:
        time.sleep(max(0.0, begin + moment - time.monotonic()))
        at = time.monotonic() - begin
        curve.append((at, min(pages, step * sum(sample.changed() for sample in samples))))
    return tuple(curve), pages


def _content(pid: int, mappings: Sequence[Mapping]) -> Iterator[tuple[int, int]]:
    """Yield start and end of the pages of PID that have content in MAPPINGS."""
    tracker = NoTracker(pid)
    try:
        for mapping in mappings:
            for start, end, _dirty in tracker.content(mapping, False):
                yield start, end
    finally:
        tracker.close()


def _open_shared(
    pid: int, mappings: Sequence[Mapping], known: dict[tuple[int, int], tuple[int, list[Range]]], stack: ExitStack
) -> Iterator[int]:
    """Add the objects of shared memory that PID maps to those KNOWN, open until STACK is left; yield the bytes of those of huge pages."""
    for mapping in mappings:
        if mapping.status & (VMA_AREA_MEMFD | VMA_AREA_SYSVIPC):
            path = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
            status = os.stat(path)
            key = status.st_dev, status.st_ino
            if key not in known:
                local = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, local)
                known[key] = local, [] if mapping.huge_shift else [(run.start, run.end) for run in filled_runs(local)]
                yield status.st_blocks * 512 if mapping.huge_shift else 0


def _picked(runs: Sequence[tuple[int, int]], step: int) -> Iterator[int]:
    """Yield the address of each STEPth page of RUNS, counted through."""
    skip = step // 2
    for start, end in runs:
        yield from range(start + skip * PAGE_SIZE, end, step * PAGE_SIZE)
        skip = (skip - (end - start) // PAGE_SIZE) % step


class _Sample:
    """Some pages of one process or object, and how they were at first."""

    def __init__(self, read: _Read, addresses: Sequence[int]) -> None:
        self._read_pages = read
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
        self._read_pages(pages, self._addresses)
        return pages


def _of_process(reader: MemoryReader, pages: memoryview, addresses: Sequence[int]) -> None:
    """Read the pages at ADDRESSES into PAGES, as far as they are there."""
    try:
        reader.read_into(pages, ((address, PAGE_SIZE) for address in addresses))
    except OSError:
        for at, address in enumerate(addresses):
            with suppress(OSError):
                reader.read_into(pages[at * PAGE_SIZE : (at + 1) * PAGE_SIZE], [(address, PAGE_SIZE)])


def _of_object(local: int, pages: memoryview, offsets: Sequence[int]) -> None:
    """Read the pages at OFFSETS of the object that our descriptor LOCAL has open into PAGES, as far as they are there."""
    for at, offset in enumerate(offsets):
        os.preadv(local, [pages[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]], offset)
