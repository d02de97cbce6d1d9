# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How the two ends of a move agree on how to talk."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MoveError
from ..images.checksum import CRC32, available, fastest
from .codec import garbled, pack, unpack
from .decision import is_session
from .wire import ABORT, HELLO, Link

FORMAT = 2
"""Of the messages: both ends must have the same."""


@dataclass(frozen=True)
class Visit:
    """What a source has come for."""

    session: str
    checking: bool
    """It asks whether the tree could come, no more."""


def greet(link: Link, session: str, checking: bool = False) -> None:
    """Agree with the destination. Raises MoveError."""
    algorithms = [name for name in (fastest(), CRC32) if available(name)]
    link.send(HELLO, pack({"format": FORMAT, "session": session, "checking": checking, "algorithms": algorithms}))
    algorithm = unpack(link.expect(HELLO)).get("algorithm")
    if algorithm not in algorithms:
        raise MoveError("the destination wants a checksum that is not known here; use the same Stillframe on both hosts")
    link.use(str(algorithm))


def answer(link: Link, body: memoryview) -> Visit:
    """Agree with the source that says BODY; return what it wants. Raises MoveError."""
    hello = unpack(body)
    session, algorithms = hello.get("session"), hello.get("algorithms")
    if not is_session(session) or not isinstance(algorithms, list):
        raise garbled()
    if hello.get("format") != FORMAT:
        reason = f"the source speaks format {hello.get('format')!r} and this end {FORMAT}; use the same Stillframe on both hosts"
        link.send(ABORT, reason.encode())
        raise MoveError(reason)
    algorithm = next((str(name) for name in algorithms if isinstance(name, str) and available(name)), CRC32)
    link.send(HELLO, pack({"format": FORMAT, "algorithm": algorithm}))
    link.use(algorithm)
    return Visit(str(session), hello.get("checking") is True)
