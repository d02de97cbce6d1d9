# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How a move would go: its rounds played through with what a tree was seen to write to, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..images.pagemap import PAGE_SIZE
from ..resources.memory.seen import LOOK_RATE
from ..results import Forecast, RoundFigures
from .convergence import STOP_TIME, UNTRACKED, enough

ASSUMED_RATE = 117_000_000
"""Bytes a second, where nothing tells better: what TCP gets through 1 Gbit/s."""
_COPY_RATE = 1_000_000_000
"""Bytes a second of one copy in memory: what limits a fast link, and in the stop is done twice besides."""
_ROUND_TIME = 0.02
"""Seconds that a round takes which has nothing to send: looking through the mappings."""
_SECOND = 1_000_000


@dataclass(frozen=True)
class Writing:
    """How a tree writes to its memory."""

    pages: int
    """That rounds can bring: its private anonymous memory and what its processes share, as far as it has content."""
    rest: int
    """Bytes of other memory, which is sent in the stop whatever happens."""
    curve: Sequence[tuple[float, int]]
    """Seconds since some moment, and how many of the pages had changed by then; ascending. At least one point."""
    shared: int = 0
    """Bytes that its processes share: every round, and the stop, looks through them all."""

    def changed_after(self, seconds: float) -> int:
        """Return how many pages have changed so long after any moment: between the points, and behind the last one, in a straight line."""
        before, points = (0.0, 0), list(self.curve)
        while len(points) > 1 and points[0][0] < seconds:
            before = points.pop(0)
        time, pages = points[0]
        if time <= before[0]:
            return min(pages, self.pages)
        slope = (pages - before[1]) / (time - before[0])
        return max(0, min(round(before[1] + slope * (seconds - before[0])), self.pages))

    @property
    def rate(self) -> int:
        """Pages that had changed by the end, by the second."""
        time, pages = self.curve[-1]
        return round(pages / time) if time else 0


def forecast(writing: Writing, link_rate: int, max_downtime: float, max_rounds: int, tracked: bool = True, files: int = 0) -> Forecast:
    """Return how a move of a tree that is WRITING would go over a link of LINK_RATE bytes a second, 0 for not known.

    It ends its rounds as a move does (`convergence.enough`). Without TRACKED there are none. FILES: bytes that come along before.
    """
    link_rate, look_time = link_rate or ASSUMED_RATE, writing.shared / LOOK_RATE
    rate = min(link_rate, _COPY_RATE)
    rounds: list[RoundFigures] = []
    pages, reason = writing.pages, "" if tracked else UNTRACKED
    while not reason:
        size = pages * PAGE_SIZE
        time = max(int((_ROUND_TIME + look_time + size / rate) * _SECOND), 1)
        dirty_rate = pages * _SECOND // rounds[-1].time if rounds else 0
        rounds.append(RoundFigures(len(rounds) + 1, pages, size, time, dirty_rate))
        pages = writing.changed_after(time / _SECOND)
        reason = enough(rounds, max(max_downtime - look_time, 0), max_rounds)
    last = pages * PAGE_SIZE + writing.rest
    downtime = STOP_TIME + look_time + last / rate + 2 * last / _COPY_RATE
    sent = files + sum(one.bytes for one in rounds) + last
    return Forecast(len(rounds), sent, int(downtime * _SECOND), writing.rate, link_rate, reason)
