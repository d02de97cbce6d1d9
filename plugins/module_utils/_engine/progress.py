# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a verb has come, for the person who waits for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Callable, Optional

_KIB, _MIB = 1 << 10, 1 << 20
_IN_KIB = 8 * _MIB
"""Bytes: less than that is told in KiB."""


@dataclass(frozen=True)
class Reading:
    """How far one stage of a verb has come."""

    stage: str
    """Such as round 2; empty for a verb that has only one."""
    done: int
    """Bytes."""
    total: int
    """Bytes, 0 where that is not known."""
    seconds: float
    """Since the stage began."""

    def __str__(self) -> str:
        """Return it for a person, such as "round 2: 45 %, 512 of 1,130 MiB, 480 MiB/s, 1 s left"."""
        unit, name = (_KIB, "KiB") if max(self.total, self.done) < _IN_KIB else (_MIB, "MiB")
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        parts = [f"{self.done // unit:,} {name}"]
        if self.total:
            parts = [f"{100 * self.done // self.total} %", f"{self.done // unit:,} of {self.total // unit:,} {name}"]
        parts.append(f"{rate / unit:,.0f} {name}/s")
        if self.total and rate:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        return (f"{self.stage}: " if self.stage else "") + ", ".join(parts)


Tell = Callable[[Reading], None]


class Progress:
    """Counts what is done, and TELLs of it: first AFTER some seconds, then EVERY few. Threads may share it.

    What is counted before `begin` is told to nobody: a part that should not be held up, however little, begins no stage.
    """

    def __init__(self, tell: Optional[Tell] = None, after: float = 0.0, every: float = 1.0) -> None:
        self._tell = tell
        self._every = every
        self._next = time.monotonic() + after
        self._lock = threading.Lock()
        self._stage = ""
        self._begun: Optional[float] = None
        self._done = 0
        self._total = 0

    def begin(self, total: int, stage: Optional[str] = None) -> None:
        """Begin STAGE, or the one that was named last anew, in which TOTAL bytes are to be done; 0 where that is not known."""
        with self._lock:
            self._stage = self._stage if stage is None else stage
            self._begun, self._done, self._total = time.monotonic(), 0, total

    def name(self, stage: str) -> None:
        """Name the stage that begins next."""
        with self._lock:
            self._stage, self._begun = stage, None

    def add(self, size: int) -> None:
        """Count SIZE bytes more as done."""
        if self._tell is None or self._begun is None:
            return
        now = time.monotonic()
        with self._lock:
            self._done += size
            if now < self._next:
                return
            self._next = now + self._every
            reading = Reading(self._stage, min(self._done, self._total or self._done), self._total, now - self._begun)
        self._tell(reading)


def uncounted(size: int) -> None:
    """Count nothing: for those whom nobody waits for."""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
