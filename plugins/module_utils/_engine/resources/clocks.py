# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The clocks that count from the start of the machine (time_namespaces(7)): in the manifest, of CRIU's dumps in timens-0.img.

A restored tree has those of the caller's time namespace, which may be behind what the program has seen; timers are carried by the time
that is left, but what the program itself has reckoned from such a clock is not. CRIU makes a time namespace in which they go on; it
would do so with a dump of ours too that had that image, and the tree could then be dumped only from inside that namespace.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping

_IMAGE = "timens-0"
_CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
_SECOND = 10**9


def read() -> Dict[str, int]:
    """Return what the clocks show now, in nanoseconds, by their names."""
    return {name: time.clock_gettime_ns(clock) for name, clock in _CLOCKS.items()}


def warnings(images: Any, shown: Mapping[str, int]) -> List[str]:
    """Return a warning for each clock that is behind what it showed when the dump was taken; SHOWN as `read` has it. Raises ImagesError."""
    if images.has(_IMAGE):
        entry = images.read_one(_IMAGE)
        shown = {name: getattr(entry, name).tv_sec * _SECOND + getattr(entry, name).tv_nsec for name in _CLOCKS}
    behind = {name: (shown[name] - time.clock_gettime_ns(clock)) / _SECOND for name, clock in _CLOCKS.items() if name in shown}
    late = "what the program has planned by it is late"
    return [f"CLOCK_{name.upper()} is {by:.0f} s behind that of the dump; {late}" for name, by in behind.items() if by > 0]
