# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sending pages of memory straight from a process into a connection, where a dump would write a pages file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, List, Optional

from ..errors import TargetError
from ..images.chain import Chain, Extent, open_chain
from ..images.checksum import STRETCH
from ..images.image import ImagesDir
from ..images.manifest import PagesRecord
from ..images.pagemap import Run, iterate_runs
from ..images.ranges import merged
from ..kernel.memory import MemoryReader
from ..kernel.pagemap import PAGE_SIZE
from ..progress import uncounted
from ..resources.memory.pages import PageRuns, PagesFile
from .codec import pack_pages
from .wire import DATA, IMAGE, PAGES, ZEROS, Link

_Pieces = List[tuple[int, int]]
_ZEROS = bytes(PAGE_SIZE)


class StreamedPages(PagesFile):
    """Takes the place of one pages file."""

    def __init__(self, link: Link, path: str, algorithm: str, runs: PageRuns, count: Callable[[int], None] = uncounted) -> None:
        super().__init__(path, algorithm, runs, count)
        self._link = link

    def __enter__(self) -> StreamedPages:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing is open."""

    def copy(self, pid: int, early: Optional[bool] = None, tolerant: bool = False) -> List[int]:
        """Send the pages of PID. Raises MoveError, TargetError.

        When TOLERANT, pages that are not there any more are no error: their addresses are returned, for `drop`.
        """
        reader, buffer, lost = MemoryReader(pid), memoryview(bytearray(STRETCH)), list[int]()
        for pieces in _batches(self._runs):
            try:
                size = reader.read_into(buffer, pieces)
            except OSError as error:
                if not tolerant:
                    raise TargetError(f"memory of process {pid} cannot be read ({error.strerror}); move it again") from error
                wanted = [address for start, length in pieces for address in range(start, start + length, PAGE_SIZE)]
                pieces, size = _readable(reader, buffer, wanted)
                lost += sorted(set(wanted) - {address for address, _length in pieces})
            pieces, parts, zeros = _without_zeros(buffer[:size], pieces)
            if pieces:
                self._link.send(PAGES, pack_pages(pid, pieces), *parts)
            if zeros:
                self._link.send(ZEROS, pack_pages(pid, zeros))
            self._count(size)
        return lost

    def drop(self, lost: Sequence[int]) -> PageRuns:
        """Return the runs without the pages at the addresses LOST."""
        gone, kept = set(lost), PageRuns()
        for run in self._runs:
            for address in range(run.start, run.end, PAGE_SIZE):
                if address not in gone:
                    kept.add(address, address + PAGE_SIZE, run.in_parent)
        self._runs = kept
        return kept

    def for_pagemap(self) -> Iterator[Run]:
        """Yield what the other end has now, neighbouring pages joined: that is all that the next round asks for."""
        for start, end in merged((run.start, run.end) for run in self._runs):
            yield Run(start, (end - start) // PAGE_SIZE, False)

    def record(self) -> PagesRecord:
        """Return that of a file without content."""
        return PagesRecord(0)


def _batches(runs: PageRuns) -> Iterator[_Pieces]:
    """Yield the parts of RUNS that are to be sent, up to STRETCH bytes at a time."""
    pieces: _Pieces = []
    room = STRETCH
    for run, _offset in runs.present():
        start = run.start
        while start < run.end:
            length = min(room, run.end - start)
            pieces.append((start, length))
            start, room = start + length, room - length
            if not room:
                yield pieces
                pieces, room = [], STRETCH
    if pieces:
        yield pieces


def _without_zeros(buffer: memoryview, pieces: _Pieces) -> tuple[_Pieces, list[memoryview], _Pieces]:
    """Return those of PIECES, whose content is in BUFFER, that are not all zeros, with their content, and those that are."""
    first = buffer.cast("Q")[:: PAGE_SIZE // 8].tolist()  # a word of each page: few pages begin with zeros
    if all(first):
        return pieces, [buffer], []
    filled, parts, zeros = list[tuple[int, int]](), list[memoryview](), list[tuple[int, int]]()
    addresses = (address for start, length in pieces for address in range(start, start + length, PAGE_SIZE))
    for at, address in enumerate(addresses):
        page = buffer[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
        if not first[at] and page == _ZEROS:
            _append(zeros, address)
        else:
            _append(filled, address)
            parts.append(page)
    return filled, parts, zeros


def _append(pieces: _Pieces, address: int) -> None:
    """Add the page at ADDRESS to PIECES, to the last one of them if it goes on there."""
    if pieces and sum(pieces[-1]) == address:
        pieces[-1] = pieces[-1][0], pieces[-1][1] + PAGE_SIZE
    else:
        pieces.append((address, PAGE_SIZE))


def _readable(reader: MemoryReader, buffer: memoryview, addresses: Sequence[int]) -> tuple[_Pieces, int]:
    """Read those pages at ADDRESSES that are there; return them, and the bytes read."""
    pieces: _Pieces = []
    at = 0
    for address in addresses:
        try:
            reader.read_into(buffer[at : at + PAGE_SIZE], [(address, PAGE_SIZE)])
        except OSError:
            continue
        pieces.append((address, PAGE_SIZE))
        at += PAGE_SIZE
    return pieces, at


@dataclass(frozen=True)
class SentChain(Chain):
    """What the rounds so far have sent, as the parent of the next one: which pages, but not their content."""

    sent: dict[str, list[Run]] = field(default_factory=dict)
    """By pagemap, neighbouring pages joined: read ahead, for the tree stands still when the last round asks for it."""

    @staticmethod
    def open(path: str) -> SentChain:
        """Return what the rounds up to that in directory PATH have sent. Raises ImagesError."""
        dumps = open_chain(path, verify=False).dumps
        return SentChain(dumps, {name: list(_joined(dumps[0].images, name)) for name in dumps[0].pagemaps()})

    def runs_of(self, name: str) -> Iterator[Run]:
        """Yield the pages that were sent."""
        return iter(self.sent.get(name, ()))

    def iterate_extents(self, name: str) -> Iterator[Extent]:
        """Yield nothing: no page is here to be compared with, so what no tracker tells is sent again."""
        return iter(())


def _joined(images: ImagesDir, name: str) -> Iterator[Run]:
    for start, end in merged((run.start, run.end) for run in iterate_runs(images, name)):
        yield Run(start, (end - start) // PAGE_SIZE, False)


def send_images(link: Link, directory: str) -> None:
    """Send the files in DIRECTORY. Raises OSError, MoveError."""
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            link.send(IMAGE, f"{os.fstat(file.fileno()).st_size} {name}".encode())
            while data := file.read(STRETCH):
                link.send(DATA, data)
