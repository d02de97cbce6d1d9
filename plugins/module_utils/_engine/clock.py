# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""When the stages of a verb happened."""

from __future__ import annotations

import time


class Clock:
    """Notes when things happened."""

    def __init__(self) -> None:
        self._marks = {"start": time.monotonic()}

    def mark(self, name: str) -> None:
        """Note that NAME happens now, unless it was noted before."""
        self._marks.setdefault(name, time.monotonic())

    def mark_again(self, name: str) -> None:
        """Note that NAME happens now, whatever was noted before."""
        self._marks[name] = time.monotonic()

    def between(self, first: str, second: str) -> int:
        """Return the microseconds from FIRST to SECOND; a mark that was not made is now."""
        now = time.monotonic()
        return int((self._marks.get(second, now) - self._marks.get(first, now)) * 1e6)
