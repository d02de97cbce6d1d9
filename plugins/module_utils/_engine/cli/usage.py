# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of `--help`, made from the option table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from .command import SUPPORTED_VERBS
from .option import FLAG, OPTIONAL, Option
from .option_table import GROUPS

SUMMARY = """\
Usage:
  stillframe dump|pre-dump --tree PID [OPTION]...
  stillframe checkpoint --tree PID|--systemd-unit UNIT [OPTION]...
  stillframe restore [OPTION]...
  stillframe drill [OPTION]... [-- COMMAND]
  stillframe dedup|squash|verify|compress|decompress [OPTION]...
  stillframe prune --keep-last N [OPTION]...
  stillframe export|import --archive FILE [OPTION]...
  stillframe page-server [OPTION]...
  stillframe receive [OPTION]...
  stillframe migrate --tree PID --address ADDR --port PORT [OPTION]...
  stillframe check [--feature NAME]

Commands:
""" + "\n".join(f"  {verb:<11} {text}" for verb, text in SUPPORTED_VERBS.items())

_WIDTH = 100
_INDENT = 30


def help_text() -> str:
    """Return all that there is to say about the command line."""
    return "\n".join((SUMMARY, "", "Options (most flags have a twin --no-NAME that takes them back):", *_groups(), ""))


def _groups() -> Iterator[str]:
    for title, options in GROUPS.items():
        yield f"\n* {title}:"
        for option in options:
            yield _row(option)


def _row(option: Option) -> str:
    name = f"  {'-' + option.short + ',' if option.short else '   '} --{option.name}{_value(option)}"
    if len(name) >= _INDENT:
        name += "\n" + " " * _INDENT
    text = option.text + (f" [{'|'.join(option.choices)}]" if option.choices else "")
    return textwrap.fill(
        text, _WIDTH, initial_indent=name.ljust(_INDENT), subsequent_indent=" " * _INDENT, break_on_hyphens=False, replace_whitespace=False
    )


def _value(option: Option) -> str:
    if option.kind == FLAG:
        return ""
    metavar = option.metavar or "ARG"
    return f"[={metavar}]" if option.kind == OPTIONAL else f" {metavar}"
