# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of image files, taken stretch by stretch so that a reader need only check what it uses.

A hole counts as the zeros that it reads as, and is not read. Both algorithms let go of Python's interpreter lock while they work.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Callable

try:
    import xxhash

    _xxh3_64: Callable[[memoryview], int] | None = xxhash.xxh3_64_intdigest
except ImportError:  # it is an option, not a dependency
    _xxh3_64 = None

STRETCH = 1 << 20
"""Bytes that one checksum covers; the last stretch of a file is shorter."""
XXH3_64 = "xxh3_64"
CRC32 = "crc32"


def fastest() -> str:
    """Return the name of the fastest algorithm that this Python has."""
    return XXH3_64 if _xxh3_64 is not None else CRC32


def available(algorithm: str) -> bool:
    """Return whether this Python can compute ALGORITHM."""
    return algorithm == CRC32 or (algorithm == XXH3_64 and _xxh3_64 is not None)


def stretches_of(offset: int, length: int) -> range:
    """Return the numbers of the stretches that hold the LENGTH bytes from OFFSET."""
    return range(offset // STRETCH, -(-(offset + length) // STRETCH))


class Checksummer:
    """Computes checksums with one algorithm, in one buffer of a stretch. Each thread takes its own."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._buffer = memoryview(bytearray(STRETCH))

    def stretches(self, fd: int, size: int, first: int = 0) -> Iterator[str]:
        """Yield the checksums of stretches FIRST and following of file FD up to SIZE bytes. Raises OSError.

        While the file grows, give the bytes written so far, rounded down to a stretch, and go on from there later.
        """
        for index in range(first, len(stretches_of(0, size))):
            yield self.stretch(fd, size, index)

    def stretch(self, fd: int, size: int, index: int, blank: Iterable[tuple[int, int]] = ()) -> str:
        """Return the checksum of stretch INDEX of file FD of SIZE bytes, the ranges BLANK of bytes of the file counted as zeros.

        Raises OSError, and EOFError when the file ends before SIZE.
        """
        return self.stretch_twice(fd, size, index, blank, None)[0]

    def stretch_twice(
        self, fd: int, size: int, index: int, blank: Iterable[tuple[int, int]], then: Iterable[tuple[int, int]] | None
    ) -> tuple[str, str]:
        """Return what `stretch` does, and what it does once the ranges THEN are zeros too, but read only once.

        Without THEN both are the same.
        """
        start = index * STRETCH
        length = min(STRETCH, size - start)
        if is_hole(fd, start, start + length):
            return _of_zeros(self.algorithm, length), _of_zeros(self.algorithm, length)
        view = self._buffer[:length]
        _read(fd, view, start)
        _blank(view, start, blank)
        first = _checksum(self.algorithm, view)
        if then is None:
            return first, first
        _blank(view, start, then)
        return first, _checksum(self.algorithm, view)

    def whole(self, fd: int, size: int) -> str:
        """Return one checksum for file FD of SIZE bytes: that of its only stretch, or of the checksums of all its stretches."""
        checksums = list(self.stretches(fd, size))
        return checksums[0] if len(checksums) == 1 else self.of("".join(checksums).encode())

    def of(self, data: bytes | memoryview) -> str:
        """Return the checksum of DATA."""
        return _checksum(self.algorithm, memoryview(data))


def is_hole(fd: int, start: int, end: int) -> bool:
    """Return whether FD has no data between START and END (lseek(2), SEEK_DATA). Moves the file's offset."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= end
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from there to the end of the file
            return os.fstat(fd).st_size >= end
        return False


def _read(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if not count:
            raise EOFError(offset + done)
        done += count


def _blank(view: memoryview, offset: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Put zeros into VIEW, which is of a file from OFFSET on, where RANGES of the file are."""
    for begin, end in ranges:
        low, high = max(begin - offset, 0), min(end - offset, len(view))
        if low < high:
            view[low:high] = bytes(high - low)


def _checksum(algorithm: str, data: memoryview) -> str:
    if algorithm == XXH3_64 and _xxh3_64 is not None:
        return f"{_xxh3_64(data):016x}"
    return f"{zlib.crc32(data):08x}"


@cache
def _of_zeros(algorithm: str, length: int) -> str:
    return _checksum(algorithm, memoryview(bytes(length)))
