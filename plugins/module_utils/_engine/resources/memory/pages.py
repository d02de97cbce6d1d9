# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs of pages of one address space, and the pages file that they go to.

The interpreter only says what to copy; the kernel copies (/proc/PID/mem, pwrite(2)) with the interpreter
unlocked, in two threads, and the checksums are taken from what is in the processor's cache anyway.
"""

from __future__ import annotations

import os
import threading
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...errors import ImagesError, TargetError
from ...images.checksum import STRETCH, Checksummer
from ...images.fault import fault
from ...images.manifest import PagesRecord
from ...images.pagemap import Run
from ...kernel.memory import MemoryReader
from ...kernel.pagemap import PAGE_SIZE
from ...progress import uncounted

WORKERS = 2
_IN_PARENT, _EARLY = 1, 2


class PageRun(NamedTuple):
    """Neighbouring pages of a task that go the same way."""

    start: int
    end: int
    in_parent: bool
    early: bool
    """To be copied while the task stands still: a snapshot would not have them."""

    @property
    def pages(self) -> int:
        return (self.end - self.start) // PAGE_SIZE


class PageRuns:
    """Page runs in ascending order, 16 bytes each: a big tree has millions."""

    def __init__(self) -> None:
        self._words = array("Q")
        self.pages_written = 0
        self.pages_in_parent = 0
        self.pages_early = 0

    def add(self, start: int, end: int, in_parent: bool, early: bool = False) -> None:
        """Add the pages from START to END, which come after all others."""
        pages = (end - start) // PAGE_SIZE
        if in_parent:
            self.pages_in_parent += pages
        else:
            self.pages_written += pages
            self.pages_early += pages if early else 0
        flags = (_IN_PARENT if in_parent else 0) | (_EARLY if early else 0)
        words = self._words
        if words and words[-2] + (words[-1] >> 2) * PAGE_SIZE == start and words[-1] & 3 == flags:
            words[-1] += pages << 2
        else:
            words.extend((start, pages << 2 | flags))

    def __iter__(self) -> Iterator[PageRun]:
        words = self._words
        for at in range(0, len(words), 2):
            start, packed = words[at], words[at + 1]
            yield PageRun(start, start + (packed >> 2) * PAGE_SIZE, bool(packed & _IN_PARENT), bool(packed & _EARLY))

    def for_pagemap(self) -> Iterator[Run]:
        """Yield the runs as a pagemap image has them."""
        return (Run(run.start, run.pages, run.in_parent) for run in self)

    def present(self) -> Iterator[Tuple[PageRun, int]]:
        """Yield the runs that this dump holds, with their offsets in the pages file."""
        offset = 0
        for run in self:
            if not run.in_parent:
                yield run, offset
                offset += run.end - run.start


class _Piece(NamedTuple):
    offset: int
    address: int
    length: int


class _Stretch(NamedTuple):
    """Pieces that lie in one checksummed stretch of the file."""

    number: int
    pieces: List[_Piece]


class PagesFile:
    """One pages-N.img while it is written, from one or more sources."""

    def __init__(self, path: str, algorithm: str, runs: PageRuns, count: Callable[[int], None] = uncounted) -> None:
        self.path = path
        self._algorithm = algorithm
        self._runs = runs
        self._count = count
        self._size = runs.pages_written * PAGE_SIZE
        self._checksums: Dict[int, str] = {}
        self._spooled: List[Tuple[_Stretch, memoryview]] = []
        self._fd = -1

    def __enter__(self) -> PagesFile:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ImagesError(str(fault("create", self.path, error))) from error
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def spool(self, pid: int, early: Optional[bool] = None) -> None:
        """Take the pages from PID into our own memory, for `flush` to write: only for what is small."""
        for stretch in self._stretches(early):
            buffer = memoryview(bytearray(sum(piece.length for piece in stretch.pieces)))
            _read(MemoryReader(pid), buffer, stretch.pieces)
            self._spooled.append((stretch, buffer))

    def flush(self) -> None:
        """Write what was spooled."""
        for stretch, buffer in self._spooled:
            self._put(stretch, buffer, Checksummer(self._algorithm), threading.Lock())
        self._spooled.clear()

    def copy(self, pid: int, early: Optional[bool] = None, tolerant: bool = False) -> List[int]:
        """Write the pages of PID: all, or those that are EARLY or not. Raises ImagesError, TargetError.

        When TOLERANT, pages that are not there any more are no error: their addresses are returned, for `drop`.
        """
        jobs = self._stretches(early)
        lock, writing = threading.Lock(), threading.Lock()
        lost: List[int] = []

        def work() -> None:
            buffer, reader, checksummer = memoryview(bytearray(STRETCH)), MemoryReader(pid), Checksummer(self._algorithm)
            while True:
                with lock:
                    stretch = next(jobs, None)
                if stretch is None:
                    return
                part = buffer[: sum(piece.length for piece in stretch.pieces)]
                try:
                    _read(reader, part, stretch.pieces)
                except TargetError:
                    if not tolerant:
                        raise
                    lost.extend(_read_pages(reader, part, stretch.pieces))
                self._put(stretch, part, checksummer, writing)
                self._count(len(part))

        _in_parallel(work, WORKERS if self._size > 4 * STRETCH else 1)
        return sorted(lost)

    def drop(self, lost: Sequence[int]) -> PageRuns:
        """Close up the file over the pages at the addresses LOST; return the runs that are left. Raises ImagesError."""
        gone, kept, target = set(lost), PageRuns(), 0
        for run, offset in self._runs.present():
            for address in range(run.start, run.end, PAGE_SIZE):
                if address not in gone:
                    self._write(memoryview(os.pread(self._fd, PAGE_SIZE, offset + address - run.start)), target)
                    target += PAGE_SIZE
        for run in self._runs:
            for address in range(run.start, run.end, PAGE_SIZE):
                if address not in gone:
                    kept.add(address, address + PAGE_SIZE, run.in_parent)
        os.ftruncate(self._fd, target)
        self._runs, self._size = kept, target
        self._checksums.clear()
        return kept

    def for_pagemap(self) -> Iterator[Run]:
        """Yield the runs as the pagemap image is to have them."""
        return self._runs.for_pagemap()

    def record(self) -> PagesRecord:
        """Return size and checksums, read back where a stretch was written in parts."""
        checksummer = Checksummer(self._algorithm)
        count = -(-self._size // STRETCH)
        stretches = (self._checksums.get(index) or checksummer.stretch(self._fd, self._size, index) for index in range(count))
        return PagesRecord(self._size, tuple(stretches))

    def _stretches(self, early: Optional[bool]) -> Iterator[_Stretch]:
        """Yield the stretches of the file with what is to be copied into each."""
        current = _Stretch(-1, [])
        for run, offset in self._runs.present():
            if early is not None and run.early != early:
                continue
            for piece in _cut(offset, run.start, run.end - run.start):
                if piece.offset // STRETCH != current.number:
                    if current.pieces:
                        yield current
                    current = _Stretch(piece.offset // STRETCH, [])
                current.pieces.append(piece)
        if current.pieces:
            yield current

    def _put(self, stretch: _Stretch, buffer: memoryview, checksummer: Checksummer, writing: threading.Lock) -> None:
        """Take the checksum of a STRETCH and write it, one thread at a time: the kernel would let the other spin meanwhile."""
        if len(buffer) == min(STRETCH, self._size - stretch.number * STRETCH):
            self._checksums[stretch.number] = checksummer.of(buffer)
        at = 0
        with writing:
            for offset, length in _joined(stretch.pieces):
                self._write(buffer[at : at + length], offset)
                at += length

    def _write(self, data: memoryview, offset: int) -> None:
        while data:
            try:
                done = os.pwrite(self._fd, data, offset)
            except OSError as error:
                raise ImagesError(str(fault("write", self.path, error))) from error
            data, offset = data[done:], offset + done


def _cut(offset: int, address: int, length: int) -> Iterator[_Piece]:
    """Cut what goes to OFFSET of the file at the bounds of its stretches."""
    while length:
        size = min(length, STRETCH - offset % STRETCH)
        yield _Piece(offset, address, size)
        offset, address, length = offset + size, address + size, length - size


def _joined(pieces: Iterable[_Piece]) -> List[Tuple[int, int]]:
    """Return the ranges (offset, length) of the file that PIECES cover, neighbours joined."""
    joined: List[Tuple[int, int]] = []
    for piece in pieces:
        if joined and sum(joined[-1]) == piece.offset:
            joined[-1] = joined[-1][0], joined[-1][1] + piece.length
        else:
            joined.append((piece.offset, piece.length))
    return joined


def _read(reader: MemoryReader, buffer: memoryview, pieces: List[_Piece]) -> None:
    try:
        reader.read_into(buffer, ((piece.address, piece.length) for piece in pieces))
    except OSError as error:
        where = f"memory of process {reader.pid} from {pieces[0].address:x} on"
        raise TargetError(f"{where} cannot be read ({error.strerror}); dump it again") from error


def _read_pages(reader: MemoryReader, buffer: memoryview, pieces: List[_Piece]) -> Iterator[int]:
    """Read PIECES page by page; yield the addresses of those that are not there any more."""
    at = 0
    for piece in pieces:
        for address in range(piece.address, piece.address + piece.length, PAGE_SIZE):
            try:
                reader.read_into(buffer[at : at + PAGE_SIZE], [(address, PAGE_SIZE)])
            except OSError:
                yield address
            at += PAGE_SIZE


def _in_parallel(work: Callable[[], None], workers: int) -> None:
    """Run WORK in WORKERS threads; raise the first error."""
    if workers == 1:
        work()
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _worker in range(workers)]:
            done.result()
