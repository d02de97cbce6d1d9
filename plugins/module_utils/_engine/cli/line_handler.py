# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What writes the records of a log as lines in CRIU's format."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress

LEVELS = (logging.CRITICAL + 1, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
"""The least severe record that is written, by CRIU's verbosity 0 to 4."""
_TIMESTAMPS_FROM = 3
PROGRESS = logging.WARNING + 1
"""How far a verb is: told from the verbosity of warnings on."""
_NAMES = {logging.ERROR: "Error", logging.WARNING: "Warn "}


class LineFormatter(logging.Formatter):
    """Formats a record as one line of CRIU's log."""

    def __init__(self, timestamps: bool) -> None:
        super().__init__()
        self._timestamps = timestamps
        self._start = time.time()

    def format(self, record: logging.LogRecord) -> str:
        """Return RECORD as one line, with its end."""
        line = record.getMessage().replace("\n", " ")
        if record.levelno in _NAMES:
            line = f"{_NAMES[record.levelno]} ({record.filename}:{record.lineno}): {line}"
        if self._timestamps:
            line = f"({max(0.0, record.created - self._start):09.6f}) {line}"
        return line + "\n"


class DescriptorHandler(logging.Handler):
    """Writes records to a descriptor, unbuffered. A log that cannot be written stops nothing, as in CRIU."""

    def __init__(self, descriptor: int, timestamps: bool) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.setFormatter(LineFormatter(timestamps))

    def emit(self, record: logging.LogRecord) -> None:
        """Write RECORD."""
        with suppress(OSError):
            os.write(self.descriptor, self.format(record).encode("utf-8", "surrogateescape"))


def logger_for(descriptor: int, verbosity: int) -> logging.Logger:
    """Return what logs to DESCRIPTOR all that VERBOSITY, CRIU's, lets through."""
    logger = logging.Logger("stillframe", LEVELS[min(verbosity, len(LEVELS) - 1)])
    logger.addHandler(DescriptorHandler(descriptor, verbosity >= _TIMESTAMPS_FROM))
    return logger
