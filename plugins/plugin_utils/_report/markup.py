# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTML and SVG elements. All text is escaped here and nowhere else: names of services and messages may hold anything."""

from __future__ import annotations

import html
import re
from typing import Union

_UNSHOWABLE = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff\\ufffe\\uffff]")
"""What HTML does not allow, and what turns the direction of the text around it."""


class Markup(str):
    """Text that is markup already."""


Child = Union[str, Markup, None]


def text(value: str) -> Markup:
    """Return VALUE so that it is shown as it is, and does nothing."""
    return Markup(html.escape(_UNSHOWABLE.sub("\ufffd", value), quote=True))


def join(*children: Child) -> Markup:
    """Return CHILDREN one after the other; those that are no markup yet are escaped, None is left out."""
    return Markup("".join(child if isinstance(child, Markup) else text(child) for child in children if child is not None))


def tag(name: str, *children: Child, **attributes: Union[str, int, float, None]) -> Markup:
    """Return element NAME. Attributes are named as in HTML, with _ for -, and _ behind what is a word of Python; None leaves one out."""
    pairs = [f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"' for key, value in attributes.items() if value is not None]
    return Markup(f"<{name}{''.join(pairs)}>{join(*children)}</{name}>")


def _value(value: Union[str, int, float]) -> str:
    return text(f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value))
