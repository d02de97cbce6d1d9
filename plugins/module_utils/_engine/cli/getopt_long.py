# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Parse a command line as getopt_long(3) of glibc does.

Options may stand before and after operands; long names may be abbreviated as long as one option fits;
short options may be clustered, and an optional value of a short option is what follows in the same word,
so that `-verbosity=0` is `-v` with the value `erbosity=0`.
"""

from __future__ import annotations

from typing import Union
from collections.abc import Iterator, Sequence

from ..errors import UsageError
from .option import FLAG, VALUE, Given, Option

Word = Union[Given, str]


def parse(arguments: Sequence[str], options: Sequence[Option]) -> Iterator[Word]:
    """Yield what ARGUMENTS give, in their order: options as Given, operands as strings.

    Raises UsageError for an option that is unknown, ambiguous, or has a value too many or too few;
    what stands before it has been yielded by then.
    """
    names = _long_names(options)
    shorts = {option.short: option for option in options if option.short}
    waiting: list[str] = list(reversed(arguments))
    while waiting:
        word = waiting.pop()
        if word == "--":
            yield from reversed(waiting)
            return
        if word.startswith("--"):
            yield _long(word, names, waiting)
        elif word.startswith("-") and word != "-":
            yield from _cluster(word, shorts, waiting)
        else:
            yield word


def _long_names(options: Sequence[Option]) -> dict[str, tuple[Option, bool]]:
    """Return every long name with its option and whether it is the negated twin."""
    names = {option.name: (option, False) for option in options}
    names.update({f"no-{option.name}": (option, True) for option in options if option.twin})
    return names


def _long(word: str, names: dict[str, tuple[Option, bool]], waiting: list[str]) -> Given:
    name, equals, value = word[2:].partition("=")
    option, negated = _find(name, names)
    if option.kind == FLAG or negated:
        if equals:
            raise UsageError(f"option --{name} takes no value; leave out ={value}")
        return Given(option, None, negated)
    if equals:
        return Given(option, value, False)
    if option.kind == VALUE:
        return Given(option, _next(f"--{option.name}", waiting), False)
    return Given(option, None, False)


def _find(name: str, names: dict[str, tuple[Option, bool]]) -> tuple[Option, bool]:
    """Return the option that NAME, which may be abbreviated, stands for."""
    if name in names:
        return names[name]
    fits = [full for full in names if full.startswith(name) and not names[full][0].ours]
    if not fits:
        raise UsageError(f"option --{name} is unknown; stillframe --help lists the options")
    if len(fits) > 1:
        raise UsageError(f"option --{name} is ambiguous; write one of --" + ", --".join(fits))
    return names[fits[0]]


def _cluster(word: str, shorts: dict[str, Option], waiting: list[str]) -> Iterator[Given]:
    """Yield the options of WORD, short ones in a row of which the last may have a value."""
    rest = word[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        if letter not in shorts:
            raise UsageError(f"option -{letter} is unknown; stillframe --help lists the options")
        option = shorts[letter]
        if option.kind == FLAG:
            yield Given(option, None, False)
            continue
        if option.kind == VALUE:
            yield Given(option, rest or _next(f"-{letter}", waiting), False)
        else:
            yield Given(option, rest or None, False)
        return


def _next(name: str, waiting: list[str]) -> str:
    if not waiting:
        raise UsageError(f"option {name} needs a value; put it behind the option")
    return waiting.pop()
