# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of system calls as kinds of state use them: one batch that asks for several kinds, and one that sets them."""

from __future__ import annotations

from itertools import islice
from typing import List, NamedTuple, Sequence

from ..errors import RestoreError
from ..tracee.calls import Call, Reply
from ..tracee.tracee import Tracee


def ask(tracee: Tracee, questions: Sequence[Sequence[Call]]) -> List[List[Reply]]:
    """Make all calls of QUESTIONS in one batch and return the replies to each question."""
    replies = iter(tracee.batch([call for question in questions for call in question]))
    return [list(islice(replies, len(question))) for question in questions]


class Order(NamedTuple):
    """Calls that set one kind of state in a thread."""

    what: str
    """What they set, for a person."""
    calls: Sequence[Call]
    must: bool = True
    """Whether one that fails fails the restore."""


def order(tracee: Tracee, what: str, calls: Sequence[Call]) -> List[Reply]:
    """Make CALLS, which set WHAT in the thread, and return the replies. Raises RestoreError at the first that failed."""
    return order_all(tracee, [Order(what, calls)])[0]


def order_all(tracee: Tracee, orders: Sequence[Order]) -> List[List[Reply]]:
    """Carry ORDERS out in one batch and return the replies to each. Raises RestoreError at the first that failed and must not."""
    answered = ask(tracee, [one.calls for one in orders])
    for one, replies in zip(orders, answered):
        for reply in replies if one.must else ():
            try:
                reply.check()
            except OSError as error:
                raise refusal(tracee, one.what, error) from error
    return answered


def refusal(tracee: Tracee, what: str, error: OSError) -> RestoreError:
    """Return the error that says that the kernel refused to set WHAT."""
    return RestoreError(
        f"{what} of thread {tracee.tid} (process {tracee.pid}) could not be restored: {error.strerror or error}; "
        "restore with the privileges that the process was started with"
    )
