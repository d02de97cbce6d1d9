# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plots as SVG. Each has a title and a description; the figures themselves stand in a table beside it.

Lengths are in the units of the view box, which is about as many pixels wide on a screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from .markup import Markup, join, tag
from .units import nice_step, on_axis

Format = Callable[[float], str]

_WIDTH = 720
_LETTER = 7.5
"""The width of a letter, at most, on the average of a label."""
_ROW = 26
_COLOURS = 6


@dataclass(frozen=True)
class Span:
    """A stretch on an axis that all spans share."""

    name: str
    start: float
    length: float
    colour: int = 0


@dataclass(frozen=True)
class Series:
    """What a line joins: points (x, y), x ascending."""

    name: str
    points: Sequence[tuple[float, float]]


def spans(title: str, description: str, rows: Sequence[Span], shown: Format, base: int = 10) -> Markup:
    """Return a row for each of ROWS with its span, and its length as SHOWN beside it."""
    left = 16 + _LETTER * max((len(row.name) for row in rows), default=0)
    most = max((row.start + row.length for row in rows), default=0) or 1
    whole = [_LETTER * len(shown(row.length)) for row in rows if not row.start and row.length == most]
    room = _WIDTH - left - 14 - max(whole, default=0)  # beside a span of the whole length there is no other place for its label
    height = _ROW * len(rows) + 30
    parts = [_grid_upright(left, room, most, height - 24, shown, base)]
    for number, row in enumerate(rows):
        x, width, y = left + room * row.start / most, room * row.length / most, _ROW * number + 4
        label = shown(row.length)
        behind = x + width + 6 + _LETTER * len(label) <= _WIDTH
        at = x + width + 6 if behind else x - 6
        tip = tag("title", f"{row.name}: {label}")
        strip = tag("rect", tip, x=x, y=y, width=max(width, 1), height=_ROW - 8, rx=2, class_=_bar(row.colour))
        parts += [
            tag("text", row.name, x=left - 8, y=y + 14, text_anchor="end"),
            strip,
            tag("text", label, x=at, y=y + 14, text_anchor=None if behind else "end"),
        ]
    return _svg(title, description, _WIDTH, height, *parts)


def bars(title: str, description: str, values: Sequence[tuple[str, float]], shown: Format, base: int = 10, last_colour: int = 0) -> Markup:
    """Return an upright bar for each of VALUES, named below; the last one in LAST_COLOUR."""
    width, height, left, bottom = 420, 220, 76, 24
    most = max((value for _name, value in values), default=0) or 1
    room, tall = width - left - 4, height - bottom - 14
    pitch = room / max(len(values), 1)
    wide = min(pitch * 0.7, 60)
    top = _ceiling(most, base)
    parts = [_grid_level(left, width, top, tall, shown, base)]
    for number, (name, value) in enumerate(values):
        x, high = left + pitch * number, tall * value / top
        colour = last_colour if number == len(values) - 1 else 0
        tip = tag("title", f"{name}: {shown(value)}")
        parts.append(
            tag("rect", tip, x=x + (pitch - wide) / 2, y=14 + tall - high, width=wide, height=max(high, 0.5), rx=1, class_=_bar(colour))
        )
    names = [(name, left + pitch * (number + 0.5)) for number, (name, _value) in enumerate(values)]
    parts += [tag("text", name, x=x, y=height - 6, text_anchor="middle", class_="axis") for name, x in _apart(names, width)]
    return _svg(title, description, width, height, *parts)


def lines(title: str, description: str, series: Sequence[Series], shown: Format, when: Format, base: int = 10) -> Markup:
    """Return a line for each of SERIES; WHEN shows what is on the level axis, which goes from the first x to the last."""
    height, left, bottom = 240, 82, 24
    xs = [x for one in series for x, _y in one.points]
    low, high = min(xs, default=0), max(xs, default=0)
    width_x = (high - low) or 1
    top = _ceiling(max((y for one in series for _x, y in one.points), default=0) or 1, base)
    room, tall = _WIDTH - left - 12, height - bottom - 14
    parts = [_grid_level(left, _WIDTH, top, tall, shown, base)]
    for number, one in enumerate(series):
        at = [(left + room * (x - low) / width_x, 14 + tall - tall * y / top) for x, y in one.points]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(tag("polyline", tag("title", one.name), points=way, class_=f"line c{number % _COLOURS}"))
        parts += [tag("circle", cx=x, cy=y, r=2.5, class_=_bar(number)) for x, y in at[:200]]
    for x, anchor in ((low, "start"), (high, "end")) if high > low else ((low, "start"),):
        place = left + room * (x - low) / width_x
        parts.append(tag("text", when(x), x=place, y=height - 6, text_anchor=anchor, class_="axis"))
    return _svg(title, description, _WIDTH, height, *parts)


def spark(title: str, values: Sequence[float]) -> Markup:
    """Return small bars that show the course of VALUES, at most the last 40."""
    width, height = 112, 26
    last = values[-40:]
    most = max(last, default=0) or 1
    pitch = width / max(len(last), 1)
    wide = min(pitch * 0.8, 8)
    parts = [
        tag("rect", x=pitch * number, y=height - height * value / most, width=wide, height=max(height * value / most, 0.5), class_=_bar(0))
        for number, value in enumerate(last)
    ]
    return _svg(title, f"{len(last)} values", width, height, *parts, class_="spark")


def legend(names: Sequence[str]) -> Markup:
    """Return what tells the colours of lines."""
    marks = [tag("rect", width=10, height=10, class_=_bar(number)) for number in range(len(names))]
    signs = [tag("svg", mark, width=10, height=10, class_="sign", aria_hidden="true") for mark in marks]
    return tag("figcaption", *(join(sign, " ", name, "  ") for sign, name in zip(signs, names)))


def _svg(title: str, description: str, width: float, height: float, *parts: Markup, class_: str | None = None) -> Markup:
    head = (tag("title", title), tag("desc", description))
    return tag("svg", *head, *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=f"{title}. {description}", class_=class_)


def _apart(names: Sequence[tuple[str, float]], end: float) -> list[tuple[str, float]]:
    """Return those of NAMES that can stand side by side, each with the middle of its place: the last one, and others before it."""
    kept: list[tuple[str, float]] = []
    for name, x in reversed(names):
        half = _LETTER * len(name) / 2
        if not kept or x + half + 6 <= end:
            middle = min(x, end - half)
            kept.append((name, middle))
            end = middle - half
    return kept


def _bar(colour: int) -> str:
    return f"bar c{colour % _COLOURS}"


def _ceiling(most: float, base: int) -> float:
    step = nice_step(most, 4, base)
    return step * -(-most // step)


def _grid_level(left: float, right: float, top: float, tall: float, shown: Format, base: int) -> Markup:
    step = nice_step(top, 4, base)
    parts = []
    for number in range(int(top / step + 0.5) + 1):
        y = 14 + tall - tall * number * step / top
        parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", on_axis(shown(number * step)), x=left - 6, y=y + 4, text_anchor="end", class_="axis"))
    return join(*parts)


def _grid_upright(left: float, room: float, most: float, bottom: float, shown: Format, base: int) -> Markup:
    step = nice_step(most, 5, base)
    parts = []
    for number in range(int(most / step) + 1):
        x = left + room * number * step / most
        parts.append(tag("line", x1=x, x2=x, y1=0, y2=bottom, class_="grid"))
        anchor = "end" if x + 30 > _WIDTH else "middle"
        parts.append(tag("text", on_axis(shown(number * step)), x=x, y=bottom + 18, text_anchor=anchor, class_="axis"))
    return join(*parts)
