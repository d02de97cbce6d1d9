# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the next dump of a service counts on the one before it, and why: a matter of what is known of that one alone."""

from __future__ import annotations

from dataclasses import dataclass

FIRST, UNSOUND, RESTARTED, TOO_LONG, UNTRACKED, INCREMENTAL = "first", "unsound", "restarted", "too_long", "untracked", "incremental"


@dataclass(frozen=True)
class Seen:
    """What is known of the dump that the next one would be made on top of."""

    path: str
    fault: str = ""
    """Why nothing can be made on top of it, in a sentence; or empty."""
    same_tree: bool = True
    """Whether it is of the processes that run now, or they were restored from it."""
    length: int = 1
    """Of its chain, itself included."""
    tracked: bool = True
    """Whether a tracker tells what changed since, or none can on this machine."""


@dataclass(frozen=True)
class Decision:
    """What the next dump is to be."""

    parent: str
    """The directory of the dump that it counts on; empty for a full dump."""
    reason: str
    """first, unsound, restarted, too_long or untracked for a full dump, else incremental."""
    why: str
    """The same as a clause."""


def decide(seen: Seen | None, full_every: int) -> Decision:
    """Return what the next dump is to be after the one that was SEEN, if there is any. With FULL_EVERY 0 a chain may grow without end."""
    if seen is None:
        return Decision("", FIRST, "there is no dump yet")
    if seen.fault:
        return unsound(seen.fault)
    if not seen.same_tree:
        return Decision("", RESTARTED, f"the service was restarted since {seen.path}")
    if full_every and seen.length >= full_every:
        return Decision("", TOO_LONG, f"the chain of {seen.path} has {seen.length} dumps, and no more than {full_every} are wanted")
    if not seen.tracked:
        return Decision("", UNTRACKED, f"no tracker counts from {seen.path}")
    return Decision(seen.path, INCREMENTAL, f"the one before, {seen.path}, can be built on")


def unsound(fault: str) -> Decision:
    """Return that a full dump is made because of what is wrong with the one before, which FAULT tells."""
    return Decision("", UNSOUND, f"nothing can be made on top of the dump before: {fault}")
