# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""When the rounds of a move end."""

from __future__ import annotations

from collections.abc import Sequence

from ..images.pagemap import PAGE_SIZE
from ..results import RoundFigures

FITS, NOT_SHRINKING, MAX_ROUNDS, UNTRACKED = "fits", "not shrinking", "max_rounds", "untracked"
STOP_TIME = 0.06
"""Seconds that the tree stands still where no memory is left to be sent: its other state, the decision."""
_SHRINKING = 0.9
_LEAST_SHARE = 0.1
"""Of the allowed downtime: a rest that takes less is not worth another round, even where all else takes longer than is allowed."""
_SECOND = 1_000_000


def enough(rounds: Sequence[RoundFigures], max_downtime: float, max_rounds: int) -> str:
    """Return why no more rounds are to come after ROUNDS; empty when one more is.

    What the tree writes to while a round lasts is what the next one has to send. From the second round on the rest is told
    from what it wrote meanwhile, at the rate at which pages were sent.
    """
    last = rounds[-1]
    if len(rounds) > 1 and expected_rest(rounds) <= max(max_downtime - STOP_TIME, _LEAST_SHARE * max_downtime):
        return FITS
    if len(rounds) > 2 and last.pages > _SHRINKING * rounds[-2].pages:
        return NOT_SHRINKING
    return MAX_ROUNDS if len(rounds) >= max_rounds else ""


def expected_rest(rounds: Sequence[RoundFigures]) -> float:
    """Return the seconds that sending what was written to during the last of ROUNDS would take."""
    last, biggest = rounds[-1], max(rounds, key=lambda one: one.pages)
    rate = max(biggest.bytes, biggest.pages * PAGE_SIZE) * _SECOND / max(biggest.time, 1)  # bytes are fewer when compressed
    dirty = last.dirty_rate * last.time / _SECOND
    return dirty * PAGE_SIZE / max(rate, 1)
