# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How the two ends of a move agree on how to talk."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import MoveError, UsageError
from ..images.checksum import CRC32, available, fastest
from . import compression
from .codec import garbled, pack, unpack
from .decision import is_session
from .wire import ABORT, HELLO, Link

FORMAT = 4
"""Of the messages: both ends must have the same."""


_REMEDY = "install it (role prepare does), or use compress auto"


@dataclass(frozen=True)
class Visit:
    """What a source has come for."""

    session: str
    checking: bool
    """It asks whether the tree could come, no more."""


def greet(link: Link, session: str, compress: str = compression.NONE, checking: bool = False) -> None:
    """Agree with the destination; COMPRESS is none, zstd or auto. Raises MoveError, UsageError."""
    offered = [compression.ZSTD] if compress != compression.NONE and compression.available() else []
    if compress == compression.ZSTD and not offered:
        raise UsageError(f"compress zstd needs the library zstandard on the source, or Python 3.14; {_REMEDY}")
    algorithms = [name for name in (fastest(), CRC32) if available(name)]
    link.send(HELLO, pack({"format": FORMAT, "session": session, "checking": checking, "algorithms": algorithms, "compress": offered}))
    hello = unpack(link.expect(HELLO))
    algorithm, chosen = hello.get("algorithm"), hello.get("compress")
    if algorithm not in algorithms:
        raise MoveError("the destination wants a checksum that is not known here; use the same Stillframe on both hosts")
    if chosen not in (compression.NONE, *offered):
        raise MoveError("the destination wants a compression that was not offered; use the same Stillframe on both hosts")
    if compress == compression.ZSTD and chosen != compression.ZSTD:
        raise MoveError(f"compress zstd needs the library zstandard on the destination too, or Python 3.14; {_REMEDY}")
    link.use(str(algorithm))
    link.compress(compression.NONE if chosen == compression.NONE else compress)


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
    offered = hello.get("compress")
    known = isinstance(offered, list) and compression.ZSTD in offered and compression.available()
    compress = compression.ZSTD if known else compression.NONE
    link.send(HELLO, pack({"format": FORMAT, "algorithm": algorithm, "compress": compress}))
    link.use(algorithm)
    link.compress(compress)
    return Visit(str(session), hello.get("checking") is True)
