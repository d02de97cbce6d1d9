# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How the schema tables name the fields of a message."""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """One field of a message. No field of CRIU's is packed, so there is no word for that."""

    name: str
    number: int
    label: str
    """required, optional or repeated."""
    kind: str
    """A scalar type of protobuf, or the name of a message or an enum of the tables."""


Fields = tuple[Field, ...]


def required(kind: str, /, **numbers: int) -> Fields:
    """Return required fields of KIND, each a name with its number."""
    return _fields("required", kind, numbers)


def optional(kind: str, /, **numbers: int) -> Fields:
    """Return optional fields of KIND, each a name with its number."""
    return _fields("optional", kind, numbers)


def repeated(kind: str, /, **numbers: int) -> Fields:
    """Return repeated fields of KIND, each a name with its number."""
    return _fields("repeated", kind, numbers)


def _fields(label: str, kind: str, numbers: dict[str, int]) -> Fields:
    return tuple(Field(name, number, label, kind) for name, number in numbers.items())
