# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of ranges behave as sets of numbers do."""

from __future__ import annotations

import random
from typing import Iterable, Set, Tuple

from _engine.images.ranges import difference, intersection, merged, total, union


def some(generator: random.Random) -> Tuple[Set[int], Tuple[Tuple[int, int], ...]]:
    numbers = {generator.randrange(30) for _number in range(generator.randrange(20))}
    return numbers, tuple(merged((number, number + 1) for number in sorted(numbers)))


def flat(ranges: Iterable[Tuple[int, int]]) -> Set[int]:
    return {number for start, end in ranges for number in range(start, end)}


def test_ranges_are_sets_of_numbers() -> None:
    generator = random.Random(4711)
    for _round in range(2000):
        (these, a), (those, b) = some(generator), some(generator)
        assert flat(union(a, b)) == these | those
        assert flat(intersection(a, b)) == these & those
        assert flat(difference(a, b)) == these - those
        assert total(a) == len(these)


def test_merged_joins_what_touches_and_overlaps() -> None:
    assert list(merged([(1, 3), (3, 4), (2, 6), (8, 9), (9, 9)])) == [(1, 6), (8, 9)]
