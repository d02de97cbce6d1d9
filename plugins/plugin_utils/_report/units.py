# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures as people read them."""

from __future__ import annotations

import re

_NOTHING = re.compile(r"0(\.0+)?\b(?!\.)")
_NOUGHTS = re.compile(r"\.0+(?= |$)")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SECOND = 1_000_000


def count(value: float) -> str:
    """Return VALUE with its thousands set apart."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Return VALUE bytes, such as 1.5 GiB."""
    unit = 0
    shown = float(value)
    while abs(shown) >= 1024 and unit < len(_BINARY) - 1:
        shown, unit = shown / 1024, unit + 1
    return f"{shown:.0f} {_BINARY[unit]}" if unit == 0 or abs(shown) >= 100 else f"{shown:.1f} {_BINARY[unit]}"


def duration(microseconds: float) -> str:
    """Return a time, such as 8.3 ms."""
    if microseconds < 1000:
        return f"{microseconds:.0f} µs"
    if microseconds < _SECOND:
        return f"{microseconds / 1000:.1f} ms"
    if microseconds < 120 * _SECOND:
        return f"{microseconds / _SECOND:.2f} s"
    minutes, seconds = divmod(round(microseconds / _SECOND), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def on_axis(shown: str) -> str:
    """Return a round figure without the noughts behind its point, nothing without its unit."""
    return "0" if _NOTHING.match(shown) else _NOUGHTS.sub("", shown)


def nice_step(most: float, parts: int, base: int = 10) -> float:
    """Return a round step such that up to about PARTS of them cover MOST: 1, 2 or 5 times a power of 10, or with BASE 2 a power of 2."""
    if most <= 0:
        return 1.0
    step = 1.0
    ladder = (2.0, 2.0, 2.0) if base == 2 else (2.0, 2.5, 2.0)
    while step * parts > most * 10:
        step /= 10
    at = 0
    while step * parts < most:
        step *= ladder[at % 3]
        at += 1
    return step
