# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""When the rounds of a move end."""

from __future__ import annotations

from typing import List

from _engine.results import RoundFigures
from _engine.transfer.convergence import FITS, MAX_ROUNDS, NOT_SHRINKING, STOP_TIME, enough, expected_rest

_RATE = 100 << 20
"""Bytes a second."""


def rounds(*pages: int, seconds: float = 1.0) -> List[RoundFigures]:
    """Return rounds of PAGES, each of SECONDS but the first, which is as long as its bytes take."""
    found: List[RoundFigures] = []
    for number, count in enumerate(pages, start=1):
        time = int((count * 4096 / _RATE if number == 1 else seconds) * 1e6)
        found.append(RoundFigures(number, count, count * 4096, time, count * 1_000_000 // found[-1].time if found else 0))
    return found


def test_the_first_round_tells_nothing_of_what_is_written_to() -> None:
    assert enough(rounds(1), 10, 10) == ""
    assert enough(rounds(1), 10, 1) == MAX_ROUNDS


def test_the_rest_fits() -> None:
    idle = rounds(25600, 256)
    assert abs(expected_rest(idle) - 0.01) < 0.001
    assert enough(idle, STOP_TIME + 0.011, 10) == FITS
    assert enough(idle, STOP_TIME + 0.009, 10) == ""


def test_a_tree_that_writes_faster_than_can_be_sent_stops_the_rounds() -> None:
    busy = rounds(25600, 25600, 25600)
    assert enough(busy[:2], 0.1, 10) == ""
    assert enough(busy, 0.1, 10) == NOT_SHRINKING
    assert enough(rounds(25600, 12800, 6400), 0.1, 10) == ""
    assert enough(rounds(25600, 12800, 6400), 0.1, 3) == MAX_ROUNDS
