# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of the results: ours, the yardstick, their ratio, the target and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Optional

Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Row:
    """One line: what is measured, against what, and what it may be at most."""

    what: str
    ours: str
    """The name of the sample."""
    yardstick: str = ""
    """The sample that it is compared with; empty for none."""
    ratio: float = 0.0
    """The target: at most this many times the yardstick; 0 for none."""
    limit: float = 0.0
    """The target: at most this, in the unit; 0 for none."""
    unit: str = "ms"
    """ms, for samples in seconds, or MiB."""


@dataclass(frozen=True)
class Result:
    """A line with its figures, medians in the unit of the row."""

    what: str
    unit: str
    ours: Optional[float]
    theirs: Optional[float]
    ratio: Optional[float]
    target: str
    met: Optional[bool]
    """None where there is no target, or nothing to compare with."""


def evaluate(row: Row, samples: Samples) -> Result:
    """Return the figures of ROW."""
    factor = 1000.0 if row.unit == "ms" else 1.0
    ours = _median(samples, row.ours, factor)
    theirs = _median(samples, row.yardstick, factor)
    ratio = ours / theirs if ours is not None and theirs else None
    met: Optional[bool] = None
    target = ""
    if row.ratio:
        target = f"<= {row.ratio:g} x" if row.ratio >= 1 else f"<= 1/{1 / row.ratio:g}"
        met = None if ratio is None else ratio <= row.ratio
    elif row.limit:
        target = f"< {row.limit:g} {row.unit}"
        met = None if ours is None else ours < row.limit
    return Result(row.what, row.unit, ours, theirs, ratio, target, met)


def _median(samples: Samples, name: str, factor: float) -> Optional[float]:
    return median(samples[name]) * factor if samples.get(name) else None


def render(results: Sequence[Result]) -> str:
    """Return the table as text."""
    head = ("", "ours", "compared with", "ratio", "target", "met")
    lines = [head, *((_text(one)) for one in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(_cell(word, widths[column], column) for column, word in enumerate(line)).rstrip() for line in lines)


def _text(one: Result) -> tuple[str, str, str, str, str, str]:
    ours, theirs = (f"{value:,.1f} {one.unit}" if value is not None else "-" for value in (one.ours, one.theirs))
    ratio = f"{one.ratio:.3f}" if one.ratio is not None else ""
    met = {True: "yes", False: "NO", None: ""}[one.met]
    return one.what, ours, theirs if one.theirs is not None else "", ratio, one.target, met


def _cell(word: str, width: int, column: int) -> str:
    return word.rjust(width) if 1 <= column <= 3 else word.ljust(width)


def as_dicts(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the results for JSON."""
    return [asdict(one) for one in results]
