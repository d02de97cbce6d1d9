# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that the tasks of a tree to come share: made in the first round, and in the end handed to the restore as it is."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import MoveError, RestoreError
from ..images.pagemap import PAGE_SIZE
from ..images.schema import message
from ..kernel.fallocate import punch_holes
from ..resources.files.descriptor_limit import allow_descriptors
from ..resources.files.memfd import F_SEAL_SEAL, make
from .codec import ObjectFacts, garbled
from .ground_memory import Piece


class _Object:
    """One object, open."""

    def __init__(self, facts: ObjectFacts) -> None:
        seals = 0 if facts.sealable else F_SEAL_SEAL
        self.facts = facts
        self.fd = make(message("memfd_inode_entry")(name=facts.name, size=facts.size, seals=seals))

    @property
    def room(self) -> int:
        """Bytes, whole pages."""
        return -(-self.facts.size // PAGE_SIZE) * PAGE_SIZE


class SharedGround:
    """The objects, by the numbers that the source gives them. A context manager: what was not handed over is gone with it."""

    def __init__(self) -> None:
        self._objects: dict[int, _Object] = {}
        self._told: set[int] = set()
        self._by_shmid: dict[int, int] = {}

    def __enter__(self) -> SharedGround:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._objects:
            os.close(self._objects.popitem()[1].fd)

    def tell(self, facts: ObjectFacts) -> None:
        """Let there be an object as FACTS tell; it keeps its content. Raises MoveError for another one of its number, RestoreError."""
        known = self._objects.get(facts.number)
        if facts.number in self._told or facts.shmid in self._by_shmid:
            raise garbled()
        try:
            if known is None:
                allow_descriptors(len(self._objects) + len(os.listdir("/proc/self/fd")))
                known = self._objects[facts.number] = _Object(facts)
            elif (known.facts.name, known.facts.sealable) != (facts.name, facts.sealable):
                raise garbled()
            known.facts = facts
            os.ftruncate(known.fd, known.room)
        except OSError as error:
            raise RestoreError(f"shared memory of {facts.size} bytes cannot be made ({error}); free some memory") from error
        self._told.add(facts.number)
        if facts.shmid:
            self._by_shmid[facts.shmid] = facts.number

    def write(self, number: int, pieces: Sequence[Piece], data: memoryview) -> None:
        """Put DATA, the content of PIECES one behind the other, into object NUMBER.

        Raises MoveError for what it cannot hold, RestoreError.
        """
        one, at = self._of(number, pieces), 0
        try:
            for offset, length in pieces:
                end = at + length
                while at < end:
                    done = os.pwrite(one.fd, data[at:end], offset)
                    at, offset = at + done, offset + done
        except OSError as error:
            raise RestoreError(f"shared memory cannot be filled ({error.strerror}); free some memory") from error

    def clear(self, number: int, pieces: Sequence[Piece]) -> None:
        """Let object NUMBER hold nothing in PIECES. Raises MoveError as `write` does, RestoreError."""
        one = self._of(number, pieces)
        try:
            punch_holes(one.fd, ((offset, offset + length) for offset, length in pieces))
        except OSError as error:
            raise RestoreError(f"shared memory cannot be emptied ({error.strerror}); move the tree again") from error

    def _of(self, number: int, pieces: Sequence[Piece]) -> _Object:
        one = self._objects.get(number)
        if one is None or number not in self._told:
            raise MoveError(f"content came for shared memory {number}, which is none of the tree's; see who is at the other end")
        if any(length <= 0 or (offset | length) % PAGE_SIZE or offset + length > one.room for offset, length in pieces):
            raise MoveError(f"content came for shared memory {number} where it has none; see who is at the other end")
        return one

    def settle(self) -> None:
        """Take note that a round is over: drop what was not told of in it."""
        for number in set(self._objects) - self._told:
            os.close(self._objects.pop(number).fd)
        self._told.clear()

    def hand_over(self, shmid: int) -> int | None:
        """Return the descriptor of the object that the images know by SHMID, the caller's from now on; None for one that did not come."""
        number = self._by_shmid.pop(shmid, 0)
        if not number:
            return None
        one = self._objects.pop(number)
        try:
            os.ftruncate(one.fd, one.facts.size)
        except OSError:
            os.close(one.fd)
            raise
        return one.fd
