# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which dumps a rule of retention keeps, and why: a matter of times alone, in UTC."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import UsageError
from .listing import Listed

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_PERIODS: Mapping[str, Callable[[datetime], object]] = {
    "hourly": lambda time: (time.date(), time.hour),
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
}


@dataclass(frozen=True)
class Rule:
    """What is to be kept: whatever any of its parts asks for."""

    last: int = 0
    """The newest ones."""
    hourly: int = 0
    """The last one of each hour that has any, of so many hours; likewise for days and weeks."""
    daily: int = 0
    weekly: int = 0
    within: str = ""
    """All that are not older than this: a number and h, d or w, also several ("1d12h")."""


def check(rule: Rule) -> None:
    """Raise UsageError for a RULE that keeps nothing, or that cannot be understood."""
    if min(rule.last, rule.hourly, rule.daily, rule.weekly) < 0:
        raise UsageError("a negative number of dumps cannot be kept; give 1 or more")
    if rule == Rule():
        raise UsageError("no rule says what to keep; give at least one of keep_last, keep_hourly, keep_daily, keep_weekly, keep_within")
    _age(rule.within)


def reasons(dumps: Sequence[Listed], rule: Rule, now: datetime) -> dict[str, tuple[str, ...]]:
    """Return why RULE keeps those of DUMPS that it keeps, by their paths. The newest is always kept."""
    newest_first = sorted(dumps, key=lambda dump: (dump.created, dump.path), reverse=True)
    found: dict[str, tuple[str, ...]] = {}

    def keep(dump: Listed, why: str) -> None:
        found[dump.path] = (*found.get(dump.path, ()), why)

    for number, dump in enumerate(newest_first[: max(rule.last, 1)]):
        keep(dump, "last" if number < rule.last else "newest")
    for name, period_of in _PERIODS.items():
        seen: set[object] = set()
        for dump in newest_first:
            period = period_of(dump.created)
            if period not in seen and len(seen) < getattr(rule, name):
                seen.add(period)
                keep(dump, name)
    for dump in newest_first:
        if rule.within and dump.created >= now - _age(rule.within):
            keep(dump, "within")
    return found


def _age(text: str) -> timedelta:
    parts = re.findall(r"(\d{1,6})([hdw])", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f"keep_within takes a time such as 36h, 7d, 2w or 1d12h, not {text!r}")
    return sum((int(number) * _UNITS[unit] for number, unit in parts), timedelta())
