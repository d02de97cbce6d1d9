# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of whole numbers as sorted ranges: bytes of a file, pages, addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""First number, and the first that does not belong any more."""


def merged(ranges: Iterable[Range]) -> Iterator[Range]:
    """Yield RANGES, which are sorted by their start, with those joined that touch or overlap."""
    start = end = 0
    for low, high in ranges:
        if low > end or start == end:
            if start < end:
                yield start, end
            start, end = low, high
        else:
            end = max(end, high)
    if start < end:
        yield start, end


def union(*sets: Iterable[Range]) -> tuple[Range, ...]:
    """Return what is in any of SETS."""
    return tuple(merged(sorted(one for ranges in sets for one in ranges)))


def intersection(these: Iterable[Range], those: Iterable[Range]) -> Iterator[Range]:
    """Yield what is in both THESE and THOSE, each sorted and without overlaps."""
    others = iter(those)
    low, high = next(others, (0, 0))
    for start, end in these:
        while low < high and low < end:
            if high > start:
                yield max(start, low), min(end, high)
            if high >= end:
                break
            low, high = next(others, (0, 0))


def difference(these: Iterable[Range], those: Iterable[Range]) -> Iterator[Range]:
    """Yield what is in THESE and not in THOSE, each sorted and without overlaps."""
    others = iter(those)
    low, high = next(others, (0, 0))
    for start, end in these:
        while low < high and low < end:
            if high > start:
                if start < low:
                    yield start, low
                start = high
            if high > end:
                break
            low, high = next(others, (0, 0))
        if start < end:
            yield start, end


def total(ranges: Iterable[Range]) -> int:
    """Return how many numbers RANGES hold."""
    return sum(end - start for start, end in ranges)
