# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Resource limits (getrlimit(2)): task_core_entry.rlimits, a list by number of the resource; RLIM_INFINITY is 2^64-1."""

from __future__ import annotations

import resource
import struct
from typing import Any, List, NamedTuple, Sequence, Tuple

from ..errors import Obstacle
from ..tracee.calls import Call, Out, Reply
from ..tracee.tracee import Tracee
from .batch import order
from .credentials import own_capabilities

# include/uapi/asm-generic/resource.h, by number
NAMES = "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime".split()
CAP_SYS_RESOURCE = 24
_RLIMIT = struct.Struct("<QQ")
_INFINITY = (1 << 64) - 1


class Limit(NamedTuple):
    """A soft and a hard limit, in the resource's own unit."""

    soft: int
    hard: int


CALLS = tuple(Call("prlimit64", (0, number, 0, Out(_RLIMIT.size))) for number in range(len(NAMES)))
"""Asked for by the task itself, since from outside it takes CAP_SYS_RESOURCE for a task of another user (kernel/sys.c)."""


def decode(replies: Sequence[Reply]) -> Tuple[Limit, ...]:
    """Return the limits in the replies to CALLS. Raises OSError."""
    return tuple(Limit(*_RLIMIT.unpack(reply.outs[0])) for reply in replies if reply.check() == 0)


def fill(tc: Any, limits: Sequence[Limit]) -> None:
    """Put LIMITS into TC, a task_core_entry."""
    for limit in limits:
        tc.rlimits.rlimits.add(cur=limit.soft, max=limit.hard)


def check(pid: int, tc: Any) -> List[Obstacle]:
    """Return the limits in TC that this process may not set: hard limits above its own, without CAP_SYS_RESOURCE."""
    if own_capabilities().effective >> CAP_SYS_RESOURCE & 1:
        return []
    return [
        Obstacle(
            pid,
            f"limit {NAMES[number]}",
            f"its hard limit is {_text(limit.max)}, ours is {_text(own)}, and CAP_SYS_RESOURCE is missing",
            "raise our own hard limit first (ulimit -H, LimitXXX= of the unit), or restore with CAP_SYS_RESOURCE",
        )
        for number, limit in enumerate(tc.rlimits.rlimits[: len(NAMES)])
        for own in (resource.getrlimit(number)[1] & _INFINITY,)
        if limit.max > own
    ]


def _text(limit: int) -> str:
    return "unlimited" if limit == _INFINITY else str(limit)


def restore(leader: Tracee, tc: Any) -> None:
    """Set the limits in TC. Raises RestoreError."""
    values = [_RLIMIT.pack(limit.cur, limit.max) for limit in tc.rlimits.rlimits]
    order(leader, "resource limits", [Call("prlimit64", (0, number, value, 0)) for number, value in enumerate(values)])
