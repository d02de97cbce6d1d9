# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What of memory that tasks share is not as it was when it was looked at before.

No tracker tells: write-protection knows one address space, and a child that came and went, or write(2), leaves no trace there.
So all of it is read and compared with digests, in chunks, and page by page in a chunk that differs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Union

from ...images.pagemap import PAGE_SIZE, Run
from ...images.ranges import Range, difference, intersection, merged
from ...progress import uncounted
from .filled import filled_runs

_CHUNK = 1 << 18
"""Bytes that are compared at once."""
DIGEST_SIZE = 16
_NO_LIMIT = 1 << 64


def _sha256(data: memoryview) -> bytes:
    return hashlib.sha256(data).digest()[:DIGEST_SIZE]


digest: Callable[[memoryview], bytes] = _sha256
"""Returns 16 bytes that two contents share by accident once in 2^128."""
ALGORITHM = "sha256"
LOOK_RATE = 1_500_000_000
"""Bytes a second that are read and compared by one core, roughly."""
try:
    import xxhash

    digest, ALGORITHM, LOOK_RATE = xxhash.xxh3_128_digest, "xxh3_128", 7_000_000_000
except ImportError:  # it is an option, not a dependency, though many times as fast
    pass


class Filled(NamedTuple):
    """What has changed of an object: new content."""

    ranges: Sequence[Range]
    """Of bytes of the object, whole pages."""
    data: memoryview
    """Their content, one behind the other; good until the next change is asked for."""


class Emptied(NamedTuple):
    """What has changed of an object: these ranges hold nothing any more."""

    ranges: Sequence[Range]


Change = Union[Filled, Emptied]


class Chunk(NamedTuple):
    """A chunk as it was."""

    ranges: Sequence[Range]
    """Of those pages that hold data."""
    whole: bytes
    """The digest of them all."""
    pages: bytes
    """The digest of each, one behind the other."""


_NOTHING = Chunk((), b"", b"")


class SeenObject:
    """One object, as it was when it was looked at last: empty at first."""

    def __init__(self, chunks: Iterable[Chunk] = ()) -> None:
        self._chunks = {chunk.ranges[0][0] // _CHUNK: chunk for chunk in chunks}

    @staticmethod
    def of_pages(pages: int, runs: Iterable[Run]) -> SeenObject:
        """Return the object of RUNS, whose pages our descriptor PAGES has, one behind the other from where it is. Raises OSError."""
        buffer, found = memoryview(bytearray(_CHUNK)), list[Chunk]()
        for _index, ranges in _chunks(runs, _NO_LIMIT):
            size = sum(end - start for start, end in ranges)
            if os.readv(pages, [buffer[:size]]) != size:
                raise EOFError("the pages are truncated")
            found.append(_chunk(ranges, buffer[:size], digest(buffer[:size])))
        return SeenObject(found)

    @property
    def chunks(self) -> Iterable[Chunk]:
        """What is known of it, in ascending order."""
        return [self._chunks[index] for index in sorted(self._chunks)]

    @property
    def ranges(self) -> Iterable[Range]:
        """The pages that hold data."""
        return merged(one for chunk in self.chunks for one in chunk.ranges)

    def changes(self, local: int, size: int, count: Callable[[int], None] = uncounted) -> Iterator[Change]:
        """Yield what has changed in the first SIZE bytes of the object that our descriptor LOCAL has open. Raises OSError.

        It may be written to meanwhile. What is behind SIZE counts as nothing; that it has become so is not told. What was told counts
        as known: whoever does not get to the end must not ask again. COUNT is told of the bytes looked at.
        """
        end = -(-size // PAGE_SIZE) * PAGE_SIZE
        before, self._chunks = self._chunks, {}
        buffer = memoryview(bytearray(_CHUNK))
        for index, ranges in _chunks(filled_runs(local), end):
            data = _read(local, ranges, buffer)
            count(len(data))
            known, whole = before.pop(index, _NOTHING), digest(data)
            if whole == known.whole and ranges == known.ranges:
                self._chunks[index] = known
                continue
            self._chunks[index] = chunk = _chunk(ranges, data, whole)
            emptied = list(intersection(difference(known.ranges, ranges), [(0, end)]))
            if emptied:
                yield Emptied(emptied)
            changed = _differing(chunk, data, known) if known.ranges else Filled(ranges, data)
            if changed.ranges:
                yield changed
        gone = list(intersection((one for _index, chunk in sorted(before.items()) for one in chunk.ranges), [(0, end)]))
        if gone:
            yield Emptied(gone)


def _chunk(ranges: Sequence[Range], data: memoryview, whole: bytes) -> Chunk:
    return Chunk(ranges, whole, b"".join(digest(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)))


def _chunks(runs: Iterable[Run], limit: int) -> Iterator[tuple[int, list[Range]]]:
    """Yield the chunks below LIMIT in which RUNS lie, each with the ranges that do."""
    index, ranges = -1, list[Range]()
    for run in runs:
        start, end = run.start, min(run.end, limit)
        while start < end:
            stop = min(end, (start // _CHUNK + 1) * _CHUNK)
            if start // _CHUNK != index:
                if ranges:
                    yield index, ranges
                index, ranges = start // _CHUNK, []
            ranges.append((start, stop))
            start = stop
    if ranges:
        yield index, ranges


def _read(local: int, ranges: Iterable[Range], buffer: memoryview) -> memoryview:
    """Return the content of RANGES, one behind the other in BUFFER; zeros behind the end of the file. Raises OSError."""
    at = 0
    for start, end in ranges:
        view = buffer[at : at + end - start]
        got = os.preadv(local, [view], start)
        view[got:] = bytes(len(view) - got)
        at += len(view)
    return buffer[:at]


def _differing(chunk: Chunk, data: memoryview, before: Chunk) -> Filled:
    """Return what differs of CHUNK, which has DATA, from how it was BEFORE."""
    known = dict(_digests(before))
    changed = [(at, address) for at, (address, found) in enumerate(_digests(chunk)) if known.get(address) != found]
    content = b"".join(data[at * PAGE_SIZE : (at + 1) * PAGE_SIZE] for at, _address in changed)
    return Filled(list(merged((address, address + PAGE_SIZE) for _at, address in changed)), memoryview(content))


def _digests(chunk: Chunk) -> Iterator[tuple[int, bytes]]:
    """Yield the address of each page of CHUNK, and its digest."""
    addresses = (address for start, end in chunk.ranges for address in range(start, end, PAGE_SIZE))
    for at, address in enumerate(addresses):
        yield address, chunk.pages[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE]
