# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The clocks that count from the start of the machine (time_namespaces(7)): timens-0.img.

A restored tree has those of the caller's time namespace, which may be behind what the program has seen; timers are carried by the time
that is left, but what the program itself has reckoned from such a clock is not. CRIU makes a time namespace in which they go on.
"""

from __future__ import annotations

import time
from typing import Any, List

from ..images.schema import message

_IMAGE = "timens-0"
_CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
_SECOND = 10**9


def write(images: Any) -> None:
    """Write what the clocks show now. Raises ImagesError."""
    entry = message("timens_entry")()
    for field, clock in _CLOCKS.items():
        shown = getattr(entry, field)
        shown.tv_sec, shown.tv_nsec = divmod(time.clock_gettime_ns(clock), _SECOND)
    images.write(_IMAGE, [entry])


def warnings(images: Any) -> List[str]:
    """Return a warning for each clock that is behind what it showed when the dump was taken. Raises ImagesError."""
    if not images.has(_IMAGE):
        return []
    entry, found = images.read_one(_IMAGE), []
    for field, clock in _CLOCKS.items():
        shown = getattr(entry, field)
        behind = shown.tv_sec + shown.tv_nsec / _SECOND - time.clock_gettime(clock)
        if behind > 0:
            found.append(f"CLOCK_{field.upper()} is {behind:.0f} s behind that of the dump; what the program has planned by it is late")
    return found
