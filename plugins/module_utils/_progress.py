# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How a module tells the action plugin that waits for it how far it is: by one small file. Private to this collection.

The action plugin gives a token, in the environment; the file has one line, of a fixed length, that is written anew in one step. It
is there only while the module runs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Optional

from ._engine.progress import Progress, Reading

DIRECTORY = "/run/stillframe"
VARIABLE = "STILLFRAME_PROGRESS"
"""Of the environment: the token."""
_PREFIX = "progress-"
_LENGTH = 256
_EVERY = 0.5
_LOG_EVERY = 2.0
"""Seconds."""
_STALE = 3600
"""Seconds after which a file that is not written any more is one of a module that was killed."""


def progress_path(token: str) -> Optional[str]:
    """Return the file that belongs to TOKEN, None where that is no token."""
    return os.path.join(DIRECTORY, _PREFIX + token) if re.fullmatch("[0-9a-f]{32}", token) else None


def open_progress(log: logging.Logger) -> Progress:
    """Return what tells how far this module is: to the action plugin that waits for it, and to its LOG."""
    path = progress_path(os.environ.get(VARIABLE, ""))
    if path is None:
        return Progress(lambda reading: log.info("%s", reading), after=_LOG_EVERY, every=_LOG_EVERY)
    return Progress(_Teller(path, log).tell, every=_EVERY)


def close_progress() -> None:
    """Take away what this module told."""
    path = progress_path(os.environ.get(VARIABLE, ""))
    if path is not None:
        with suppress(OSError):
            os.unlink(path)


class _Teller:
    """Tells of each reading in the file, and of some in the log. Where that cannot be done, nobody is told: the work goes on."""

    def __init__(self, path: str, log: logging.Logger) -> None:
        self._path = path
        self._log = log
        self._logged = time.monotonic()
        self._made = False

    def tell(self, reading: Reading) -> None:
        """Tell of READING."""
        if time.monotonic() - self._logged >= _LOG_EVERY:
            self._logged = time.monotonic()
            self._log.info("%s", reading)
        with suppress(OSError):
            line = json.dumps(asdict(reading)).encode().ljust(_LENGTH - 1) + b"\n"
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if self._made else self._make()
            try:
                os.pwrite(descriptor, line, 0)
            finally:
                os.close(descriptor)

    def _make(self) -> int:
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._made = True
        for one in os.scandir(DIRECTORY):
            if one.name.startswith(_PREFIX) and one.stat(follow_symlinks=False).st_mtime < time.time() - _STALE:
                os.unlink(one.path)
        return descriptor
