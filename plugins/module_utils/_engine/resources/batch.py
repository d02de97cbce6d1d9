# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of system calls as kinds of state use them: one batch that asks for several kinds, and one that must succeed."""

from __future__ import annotations

from itertools import islice
from typing import List, Sequence

from ..errors import RestoreError
from ..tracee.calls import Call, Reply
from ..tracee.tracee import Tracee


def ask(tracee: Tracee, questions: Sequence[Sequence[Call]]) -> List[List[Reply]]:
    """Make all calls of QUESTIONS in one batch and return the replies to each question."""
    replies = iter(tracee.batch([call for question in questions for call in question]))
    return [list(islice(replies, len(question))) for question in questions]


def order(tracee: Tracee, what: str, calls: Sequence[Call]) -> List[Reply]:
    """Make CALLS, which set WHAT in the thread, and return the replies. Raises RestoreError at the first that failed."""
    replies = tracee.batch(calls)
    for reply in replies:
        try:
            reply.check()
        except OSError as error:
            raise refusal(tracee, what, error) from error
    return replies


def refusal(tracee: Tracee, what: str, error: OSError) -> RestoreError:
    """Return the error that says that the kernel refused to set WHAT."""
    return RestoreError(
        f"{what} of thread {tracee.tid} (process {tracee.pid}) could not be restored: {error.strerror or error}; "
        "restore with the privileges that the process was started with"
    )
