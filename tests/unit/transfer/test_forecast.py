# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How a move is expected to go."""

from __future__ import annotations

import pytest
from _engine.transfer.convergence import FITS, MAX_ROUNDS, NOT_SHRINKING, UNTRACKED
from _engine.transfer.forecast import ASSUMED_RATE, Writing, forecast

_GIB = 1 << 18
"""Pages."""
_RATE = 500_000_000


def steady(pages_a_second: int, pages: int = _GIB, rest: int = 0) -> Writing:
    """Return a tree that writes to pages that it has not written to yet."""
    return Writing(pages, rest, ((0.4, pages_a_second * 4 // 10), (0.8, pages_a_second * 8 // 10)))


def test_what_is_written_to_is_told_between_the_points_and_behind_them() -> None:
    writing = Writing(1000, 0, ((0.1, 100), (0.2, 150), (0.4, 200)))
    expected = {0.0: 0, 0.05: 50, 0.1: 100, 0.15: 125, 0.2: 150, 0.4: 200, 0.8: 300, 100.0: 1000}
    assert {at: writing.changed_after(at) for at in expected} == expected
    assert writing.rate == 500


@pytest.mark.parametrize("curve", [((0.0, 3),), ((0.1, 3), (0.1, 3)), ((0.1, 5), (0.2, 3), (0.4, 0))])
def test_no_curve_leads_astray(curve: tuple[tuple[float, int], ...]) -> None:
    for at in (0.0, 0.1, 0.3, 1e6):
        assert 0 <= Writing(4, 0, curve).changed_after(at) <= 5


def test_an_idle_tree_needs_two_rounds() -> None:
    found = forecast(steady(0), _RATE, 0.1, 10)
    assert (found.rounds, found.enough, found.dirty_rate) == (2, FITS, 0)
    assert found.bytes == _GIB * 4096
    assert found.downtime < 100_000


def test_a_tree_that_writes_a_little_needs_more() -> None:
    idle, busy = forecast(steady(0), _RATE, 0.08, 10), forecast(steady(20_000), _RATE, 0.08, 10)
    assert idle.rounds < busy.rounds < 10 and busy.enough == FITS
    assert idle.bytes < busy.bytes < 2 * idle.bytes
    assert idle.downtime < busy.downtime


def test_a_tree_that_writes_all_it_has_stands_still_for_all_it_has() -> None:
    found = forecast(Writing(_GIB, 0, ((0.05, _GIB), (0.8, _GIB))), _RATE, 0.1, 10)
    assert (found.rounds, found.enough) == (3, NOT_SHRINKING)
    assert found.bytes == 4 * _GIB * 4096
    assert found.downtime > _GIB * 4096 / _RATE * 1_000_000


def test_the_bounds_of_a_move_count() -> None:
    assert forecast(steady(20_000), _RATE, 0.0001, 2).enough == MAX_ROUNDS
    untracked = forecast(steady(20_000), _RATE, 0.1, 10, tracked=False)
    assert (untracked.rounds, untracked.enough, untracked.bytes) == (0, UNTRACKED, _GIB * 4096)
    assert untracked.downtime > _GIB * 4096 / _RATE * 1_000_000


def test_what_no_round_brings_is_sent_in_the_stop() -> None:
    without, with_rest = forecast(steady(0), _RATE, 0.1, 10), forecast(steady(0, rest=_RATE), _RATE, 0.1, 10)
    assert with_rest.bytes - without.bytes == _RATE
    assert with_rest.downtime - without.downtime > 1_000_000


def test_an_unknown_rate_is_assumed() -> None:
    assert forecast(steady(0), 0, 0.1, 10).rate == ASSUMED_RATE
    assert forecast(steady(0), 1_000_000, 0.1, 10).downtime >= forecast(steady(0), 0, 0.1, 10).downtime


def test_a_tree_without_memory() -> None:
    assert forecast(Writing(0, 0, ((0.8, 0),)), _RATE, 0.1, 10).bytes == 0
