# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of image files, taken stretch by stretch so that a reader need only check what it uses.

A hole counts as the zeros that it reads as, and is not read. The checksum of a stretch is the sum, modulo 2^64, of the checksums of
its pages, each with its number in the stretch as the seed: so pages that are freed are taken off it, and no other has to be read.
In dumps of before, it is that of all its bytes, freed pages as zeros.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count

from .ranges import Range, difference, intersection

_Hash = Callable[[memoryview, int], int]
_HASHES: dict[str, _Hash] = {"crc32": zlib.crc32}
"""By name; each takes data and a seed."""
try:
    import xxhash

    _HASHES["xxh3_64"] = xxhash.xxh3_64_intdigest
except ImportError:  # it is an option, not a dependency
    pass

STRETCH = 1 << 20
"""Bytes that one checksum covers; the last stretch of a file is shorter."""
PIECE = 4096
"""Bytes of a page, as far as checksums go, whatever the machine's own pages are."""
XXH3_64 = "xxh3_64"
CRC32 = "crc32"
SUMMED = ".pages"
"""Ends the name of an algorithm that adds up pages."""
NOTHING = "0" * 16
"""The sum of no pages."""
_MODULUS = 1 << 64


def fastest() -> str:
    """Return the name of the fastest algorithm that this Python has."""
    return (XXH3_64 if XXH3_64 in _HASHES else CRC32) + SUMMED


def available(algorithm: str) -> bool:
    """Return whether this Python can compute ALGORITHM."""
    return algorithm.removesuffix(SUMMED) in _HASHES


def stretches_of(offset: int, length: int) -> range:
    """Return the numbers of the stretches that hold the LENGTH bytes from OFFSET."""
    return range(offset // STRETCH, -(-(offset + length) // STRETCH))


class Checksummer:
    """Computes checksums with one algorithm, in one buffer of a stretch. Each thread takes its own."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.summed = algorithm.endswith(SUMMED)
        """Whether pages can be taken off a checksum."""
        self._buffer = memoryview(bytearray())

    def stretches(self, fd: int, size: int, first: int = 0) -> Iterator[str]:
        """Yield the checksums of stretches FIRST and following of file FD up to SIZE bytes. Raises OSError.

        While the file grows, give the bytes written so far, rounded down to a stretch, and go on from there later.
        """
        for index in range(first, len(stretches_of(0, size))):
            yield self.stretch(fd, size, index)

    def stretch(self, fd: int, size: int, index: int, gone: Iterable[Range] = ()) -> str:
        """Return the checksum of stretch INDEX of file FD of SIZE bytes without the pages in GONE, ranges of bytes of the file.

        Raises OSError, and EOFError when the file ends before SIZE.
        """
        return self.stretch_twice(fd, size, index, gone, None)[0]

    def stretch_twice(
        self, fd: int, size: int, index: int, gone: Iterable[Range], then: Iterable[Range] | None
    ) -> tuple[str, str]:
        """Return what `stretch` does, and what it does once the ranges THEN are gone too, but read only once.

        Without THEN both are the same.
        """
        start = index * STRETCH
        length = min(STRETCH, size - start)
        missing = list(gone)
        if is_hole(fd, start, start + length) and not (self.summed and missing):
            return _of_zeros(self.algorithm, length), _of_zeros(self.algorithm, length)
        view = self._read(fd, start, length)
        first = self.without(view, start, missing)
        return first, first if then is None else self.without(view, start, then)

    def take_off(self, checksums: list[str], fd: int, size: int, ranges: Iterable[Range]) -> None:
        """Change CHECKSUMS, one for each stretch of file FD of SIZE bytes, to what they are without RANGES; read only those.

        None of them must be gone already, and the algorithm must be one of sums. Raises OSError, EOFError as `stretch` does.
        """
        less: dict[int, int] = {}
        for low, high in ranges:
            while low < high:
                index = low // STRETCH
                start = index * STRETCH
                stop = min(high, start + STRETCH)
                if low == start and stop == min(start + STRETCH, size):
                    checksums[index] = NOTHING
                else:
                    part = self._read(fd, low, stop - low)
                    less[index] = less.get(index, 0) + _sum(self.algorithm, part, (low - start) // PIECE)
                low = stop
        for index, pages in less.items():
            checksums[index] = f"{(int(checksums[index], 16) - pages) % _MODULUS:016x}"

    def whole(self, fd: int, size: int) -> str:
        """Return one checksum for file FD of SIZE bytes: that of its only stretch, or of the checksums of all its stretches."""
        checksums = list(self.stretches(fd, size))
        return checksums[0] if len(checksums) == 1 else self.of("".join(checksums).encode())

    def of(self, data: bytes | memoryview) -> str:
        """Return the checksum of DATA."""
        return _checksum(self.algorithm, memoryview(data))

    def _read(self, fd: int, offset: int, length: int) -> memoryview:
        """Return LENGTH bytes from OFFSET of FD, good until the next call. Raises OSError, EOFError."""
        if len(self._buffer) < length:
            self._buffer = memoryview(bytearray(length))
        view, done = self._buffer[:length], 0
        while done < length:
            count = os.preadv(fd, [view[done:] if done else view], offset + done)
            if not count:
                raise EOFError(offset + done)
            done += count
        return view

    def without(self, view: memoryview, start: int, gone: Iterable[Range]) -> str:
        """Return the checksum of VIEW, which is of a file from START on, without the ranges GONE of the file; they may be blanked."""
        ranges = list(intersection(((low - start, high - start) for low, high in gone), [(0, len(view))]))
        if self.summed:
            kept = difference([(0, len(view))], ranges)
            return f"{sum(_sum(self.algorithm, view[low:high], low // PIECE) for low, high in kept) % _MODULUS:016x}"
        for low, high in ranges:
            view[low:high] = bytes(high - low)
        return _checksum(self.algorithm, view)


def is_hole(fd: int, start: int, end: int) -> bool:
    """Return whether FD has no data between START and END (lseek(2), SEEK_DATA). Moves the file's offset."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= end
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from there to the end of the file
            return os.fstat(fd).st_size >= end
        return False


def _checksum(algorithm: str, data: memoryview) -> str:
    if algorithm.endswith(SUMMED):
        return f"{_sum(algorithm, data, 0) % _MODULUS:016x}"
    return f"{_HASHES[algorithm](data, 0):0{16 if algorithm == XXH3_64 else 8}x}"


def _sum(algorithm: str, data: memoryview, first: int) -> int:
    """Return the sum of the checksums of the pages of DATA, of which the first is number FIRST of its stretch."""
    one = _HASHES[algorithm[: -len(SUMMED)]]
    if len(data) <= PIECE:
        return one(data, first)
    return sum(map(one, [data[at : at + PIECE] for at in range(0, len(data), PIECE)], count(first)))


@cache
def _of_zeros(algorithm: str, length: int) -> str:
    return _checksum(algorithm, memoryview(bytes(length)))
