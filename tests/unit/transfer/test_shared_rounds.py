# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared memory through the rounds of a move: what changes is sent, and the other end has the same in the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any, Optional

import pytest
from _engine.images.pagemap import PAGE_SIZE
from _engine.images.ranges import total
from _engine.kernel.fallocate import punch_holes
from _engine.progress import Progress
from _engine.resources.memory.shared import SharedObject
from _engine.resources.memory import seen as seen_objects
from _engine.transfer.codec import unpack_object, unpack_pages, unpack_zeros
from _engine.resources.memory.seen import Emptied, Filled, SeenObject
from _engine.transfer.shared_ground import SharedGround
from _engine.transfer.shared_rounds import SharedRounds
from _engine.transfer.wire import HOLES, OBJECT, SHARED

_PAGES = 1000


@pytest.fixture(params=["the fastest digest", "sha256"])
def any_digest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare by each of the digests."""
    if request.param == "sha256":
        monkeypatch.setattr(seen_objects, "digest", seen_objects._sha256)


@pytest.fixture
def memory() -> Iterator[int]:
    """An object of a thousand pages and a bit, of which every other ten have content."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, _PAGES * PAGE_SIZE + 100)
    for page in range(0, _PAGES, 20):
        os.pwrite(fd, os.urandom(10 * PAGE_SIZE), page * PAGE_SIZE)
    yield fd
    os.close(fd)


class _Wire:
    """Brings frames to the other end at once."""

    def __init__(self, ground: SharedGround) -> None:
        self._ground = ground
        self.bytes = 0

    def send(self, kind: int, *parts: Any) -> None:
        body = memoryview(b"".join(parts))
        self.bytes += len(body)
        if kind == OBJECT:
            self._ground.tell(unpack_object(body))
        elif kind == HOLES:
            self._ground.clear(*unpack_zeros(body))
        else:
            assert kind == SHARED
            self._ground.write(*unpack_pages(body))


def content(fd: Optional[int]) -> bytes:
    assert fd is not None
    return os.pread(fd, os.fstat(fd).st_size + 1, 0)


def told(seen: SeenObject, fd: int) -> tuple[int, int]:
    """Return how many pages were filled and emptied."""
    found = [(type(change), total(change.ranges) // PAGE_SIZE) for change in seen.changes(fd, os.fstat(fd).st_size)]
    filled, emptied = (sum(pages for kind, pages in found if kind is wanted) for wanted in (Filled, Emptied))
    return filled, emptied


def one_word(fd: int) -> None:
    os.pwrite(fd, b"x" * 8, 40 * PAGE_SIZE + 16)


def the_end(fd: int) -> None:
    os.pwrite(fd, b"x" * 99, _PAGES * PAGE_SIZE)


def a_hole(fd: int) -> None:
    punch_holes(fd, [(41 * PAGE_SIZE, 43 * PAGE_SIZE)])


def all_of_it(fd: int) -> None:
    punch_holes(fd, [(0, _PAGES * PAGE_SIZE)])


def shorter(fd: int) -> None:
    os.ftruncate(fd, 505 * PAGE_SIZE)


def nothing(fd: int) -> None:
    os.pwrite(fd, os.pread(fd, PAGE_SIZE, 40 * PAGE_SIZE), 40 * PAGE_SIZE)


_EVENTS: list[tuple[Callable[[int], None], tuple[int, int]]] = [
    (one_word, (1, 0)),
    (the_end, (1, 0)),
    (all_of_it, (0, 500)),
    (shorter, (0, 0)),
    (nothing, (0, 0)),
]


@pytest.mark.usefixtures("any_digest")
@pytest.mark.parametrize(("event", "wanted"), _EVENTS, ids=[event.__name__ for event, _wanted in _EVENTS])
def test_what_has_changed_is_told(memory: int, event: Callable[[int], None], wanted: tuple[int, int]) -> None:
    seen = SeenObject()
    assert told(seen, memory) == (500, 0)
    assert told(seen, memory) == (0, 0)
    event(memory)
    assert told(seen, memory) == wanted
    assert told(seen, memory) == (0, 0)


@pytest.mark.usefixtures("any_digest")
@pytest.mark.parametrize("event", [one_word, the_end, a_hole, all_of_it, shorter, nothing])
def test_the_other_end_has_the_same(memory: int, event: Callable[[int], None]) -> None:
    with SharedGround() as ground:
        wire: Any = _Wire(ground)
        rounds, source = SharedRounds(wire), SharedObject(7, memory)
        rounds.send([source], Progress())
        ground.settle()
        event(memory)
        rounds.send_last([source])
        there = ground.hand_over(7)
        assert content(there) == content(memory)
        assert there is not None and os.fstat(there).st_blocks == os.fstat(memory).st_blocks
        os.close(there)
        assert ground.hand_over(7) is None


def test_many_rounds_of_random_changes(memory: int) -> None:
    chance = random.Random(4)
    with SharedGround() as ground:
        wire: Any = _Wire(ground)
        rounds, source = SharedRounds(wire), SharedObject(7, memory)
        for _round in range(30):
            rounds.send([source], Progress())
            ground.settle()
            for _change in range(chance.randrange(20)):
                page, count = chance.randrange(_PAGES), chance.randrange(1, 100)
                if chance.random() < 0.3:
                    punch_holes(memory, [(page * PAGE_SIZE, (page + count) * PAGE_SIZE)])
                else:
                    os.pwrite(memory, chance.randbytes(count * 100), page * PAGE_SIZE + chance.randrange(PAGE_SIZE))
            os.ftruncate(memory, chance.randrange(_PAGES // 2, _PAGES) * PAGE_SIZE + chance.randrange(PAGE_SIZE))
        rounds.send_last([source])
        there = ground.hand_over(7)
        assert content(there) == content(memory)
        os.close(there or -1)


def test_an_object_that_was_not_met_in_a_round_is_sent_again(memory: int) -> None:
    with SharedGround() as ground:
        wire: Any = _Wire(ground)
        rounds, source = SharedRounds(wire), SharedObject(7, memory)
        descriptors = len(os.listdir("/proc/self/fd"))
        rounds.send([source], Progress())
        ground.settle()
        assert rounds.pages == 500 and len(os.listdir("/proc/self/fd")) == descriptors + 1
        rounds.send([], Progress())
        ground.settle()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        rounds.send_last([source])
        assert rounds.pages == 500
        there = ground.hand_over(7)
        assert content(there) == content(memory)
        os.close(there or -1)


def test_what_is_not_handed_over_is_gone(memory: int) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with SharedGround() as ground:
        wire: Any = _Wire(ground)
        SharedRounds(wire).send([SharedObject(7, memory)], Progress())
        assert ground.hand_over(7) is None  # before the last round, no image knows it
    assert len(os.listdir("/proc/self/fd")) == descriptors
