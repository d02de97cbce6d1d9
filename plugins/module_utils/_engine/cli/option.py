# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""One option of the command line, as a row of the option table."""

from __future__ import annotations

from typing import NamedTuple

SUPPORTED = "supported"
HARMLESS = "harmless"
"""Taken for the sake of programs that pass it; nothing that it could change exists here."""
REFUSED = "refused"

FLAG = "flag"
VALUE = "value"
"""Needs a value: `--name VALUE` or `--name=VALUE`."""
OPTIONAL = "optional"
"""May have a value: `--name` or `--name=VALUE`."""


class Option(NamedTuple):
    """A long option, with all that parsing it, explaining it and refusing it needs."""

    name: str
    effect: str
    """SUPPORTED, HARMLESS or REFUSED."""
    kind: str
    """FLAG, VALUE or OPTIONAL."""
    text: str
    """What it does; for one that is harmless or refused, the reason."""
    short: str = ""
    metavar: str = ""
    twin: bool = False
    """Whether `--no-NAME` exists, as for BOOL_OPT in CRIU's config.c."""
    choices: tuple[str, ...] = ()
    sets: str = ""
    """The field of Settings that it sets, where that is not its name."""
    ours: bool = False
    """Not CRIU's, so it must be written out: it may not make an abbreviation of CRIU's options ambiguous."""

    @property
    def field(self) -> str:
        """The field of Settings that this option sets."""
        return self.sets or self.name.replace("-", "_")


class Given(NamedTuple):
    """An option as it was given: `--no-NAME` is negated; value is None where none was given."""

    option: Option
    value: str | None
    negated: bool
