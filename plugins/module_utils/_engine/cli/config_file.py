# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration files in CRIU's format: an option a line, without the dashes.

leave-running
ghost-limit 2M
log-file "dump log"     # a comment
"""

from __future__ import annotations


from ..errors import UsageError


def read_config(path: str) -> list[str]:
    """Return the options in file PATH as words of a command line.

    Raises UsageError when the file cannot be read or a line in it makes no sense.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            return [word for line in lines for word in _words(path, line)]
    except OSError as error:
        raise UsageError(f"configuration file {path} cannot be read: {error.strerror}; name another one with --config") from error


def _words(path: str, line: str) -> list[str]:
    import shlex

    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise UsageError(f"configuration file {path} has a line that cannot be read, {line.strip()!r}: {error}") from error
    if len(words) > 2:
        raise UsageError(f"configuration file {path} has a line of more than an option and its value: {line.strip()!r}")
    return ["=".join((f"--{words[0]}", *words[1:]))] if words else []
