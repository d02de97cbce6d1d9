# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The log, in CRIU's line format, written straight to a descriptor.

    (00.012345) Error (restore.py:120): what went wrong

Timestamps, seconds since the log was opened, are there from verbosity 3 on, as in CRIU's log.c.
"""

from __future__ import annotations

import fcntl
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from ..progress import Progress

from ..errors import UsageError

STDOUT = "-"
_INFORMED_FROM = 3
"""CRIU's verbosity of information (LOG_INFO)."""
_WARNED_FROM = 2
"""CRIU's verbosity of warnings (LOG_WARN)."""
_PROGRESS_EVERY = 2.0
"""Seconds; what takes less says nothing."""
_FIRST_FREE = 3
"""The log never takes the place of a standard stream that the caller has closed."""


class LineLog:
    """An open log: the logger that the verbs get, and the descriptor that scripts write to."""

    def __init__(self, descriptor: int, verbosity: int, to_stderr: bool) -> None:
        self.descriptor = descriptor
        self.to_stderr = to_stderr
        self._verbosity = verbosity

    @cached_property
    def logger(self) -> logging.Logger:
        """What the verbs log to; it is imported at its first use."""
        from .line_handler import logger_for

        return logger_for(self.descriptor, self._verbosity)

    def note(self, text: str, *arguments: object) -> None:
        """Log TEXT at the level of what is told for information alone."""
        if self._verbosity >= _INFORMED_FROM:
            self.logger.info(text, *arguments, stacklevel=2)

    def progress(self) -> Progress:
        """Return what tells here how far a verb is: wherever warnings are, but only to who has asked for a log or sits at a terminal."""
        from ..progress import Progress
        from .line_handler import PROGRESS

        wanted = self._verbosity >= _WARNED_FROM and (not self.to_stderr or os.isatty(self.descriptor))
        if not wanted and self._verbosity < _INFORMED_FROM:
            return Progress()
        return Progress(lambda reading: self.logger.log(PROGRESS, "%s", reading), _PROGRESS_EVERY, _PROGRESS_EVERY)

    def fail(self, verb: str, error: Exception | str) -> None:
        """Tell why VERB failed: in the log, and on standard error where the log is elsewhere or silent."""
        self.logger.error("%s", error, stacklevel=2)
        if not (self.to_stderr and self._verbosity):
            tell(verb, error)

    def close(self) -> None:
        """Close the descriptor. Nothing can be logged any more."""
        os.close(self.descriptor)


def open_log(path: str | None, verbosity: int) -> LineLog:
    """Open the log: file PATH (emptied, mode 0600), standard output for "-", standard error for None.

    Raises UsageError when the file cannot be opened.
    """
    if path is None or path == STDOUT:
        return LineLog(_duplicate(1 if path else 2), verbosity, to_stderr=path is None)
    try:
        opened = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o600)
    except OSError as error:
        raise UsageError(f"log file {os.path.abspath(path)} cannot be opened: {error.strerror}; name another one with -o") from error
    try:
        return LineLog(fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE), verbosity, to_stderr=False)
    finally:
        os.close(opened)


def _duplicate(stream: int) -> int:
    """Return a copy of standard stream STREAM, or a descriptor that swallows all where the caller has closed it."""
    try:
        return fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            return fcntl.fcntl(null, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
        finally:
            os.close(null)


def tell(verb: str, error: Exception | str) -> None:
    """Say on standard error, in one sentence, why VERB failed."""
    if sys.stderr is not None:
        sys.stderr.write(f"stillframe{' ' + verb if verb else ''}: {error}\n")
        sys.stderr.flush()
