# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that go to a page server, where `pages` and `shared` would write them into files.

A page server takes one image after the other, each in ascending order. What has to be read earlier than its turn comes is kept in
our own memory until then.
"""

from __future__ import annotations

import os
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from ...errors import TargetError
from ...images.image import ImagesDir
from ...images.pagemap import Run
from ...kernel.memory import MemoryReader
from ...kernel.pagemap import PAGE_SIZE
from ...progress import uncounted
from ...transfer.page_client import PageClient
from .pages import PageRun, PageRuns
from .filled import filled_runs
from .shared import SharedObject

_PIECE = 256
"""Pages that are read and sent at once."""


class SentPages:
    """The pages of one task; stands where `PagesFile` does."""

    def __init__(self, client: PageClient, image: str, runs: PageRuns, count: Callable[[int], None] = uncounted) -> None:
        self._client = client
        self._image = image
        self._runs = runs
        self._count = count
        self._kept: Dict[int, memoryview] = {}
        self._pid = 0
        self._sent = False

    def spool(self, pid: int, early: Optional[bool] = None) -> None:
        """Take the pages from PID into our own memory, for `flush` to send: only for what is small. Raises TargetError."""
        self._pid, reader = pid, MemoryReader(pid)
        for run in self._runs:
            if not run.in_parent and early in (None, run.early):
                for start, end in _pieces(run):
                    self._kept[start] = _read(reader, memoryview(bytearray(end - start)), start)

    def copy(self, pid: int, early: Optional[bool] = None, tolerant: bool = False) -> List[int]:
        """Send all that was not kept from PID; only keep it, when it is EARLY. Raises TransferError, TargetError.

        When TOLERANT, pages that are not there any more are no error: their addresses are returned, for `drop`.
        """
        if early:
            self.spool(pid, early)
            return []
        return self._send(pid, tolerant)

    def flush(self) -> None:
        """Send what was spooled, if that is all there is."""
        if not self._sent:
            self._send(self._pid, False)

    def drop(self, lost: Sequence[int]) -> PageRuns:
        """Return the runs without the pages at the addresses LOST, which were not sent."""
        gone, kept = set(lost), PageRuns()
        for run in self._runs:
            for address in range(run.start, run.end, PAGE_SIZE):
                if address not in gone:
                    kept.add(address, address + PAGE_SIZE, run.in_parent)
        return kept

    def _send(self, pid: int, tolerant: bool) -> List[int]:
        self._sent = True
        self._client.open(self._image)
        reader, buffer = MemoryReader(pid), memoryview(bytearray(_PIECE * PAGE_SIZE))
        lost: List[int] = []
        for run in self._runs:
            if run.in_parent:
                self._client.leave(self._image, run.start, run.pages)
                continue
            for start, end in _pieces(run):
                try:
                    data = self._kept.pop(start, None) or _read(reader, buffer[: end - start], start)
                except TargetError:
                    if not tolerant:
                        raise
                    lost.extend(self._send_pages(reader, buffer[:PAGE_SIZE], start, end))
                else:
                    self._client.add(self._image, start, (end - start) // PAGE_SIZE, data)
                self._count(end - start)
        return lost

    def _send_pages(self, reader: MemoryReader, buffer: memoryview, start: int, end: int) -> Iterator[int]:
        """Send page by page; yield the addresses of those that are not there any more."""
        for address in range(start, end, PAGE_SIZE):
            try:
                page = _read(reader, buffer, address)
            except TargetError:
                yield address
            else:
                self._client.add(self._image, address, 1, page)


class SentObjects:
    """The shared objects of a tree; stands where `SharedMemory` does."""

    def __init__(self, client: PageClient) -> None:
        self._client = client
        self.pages = 0
        """Pages sent."""
        self.pages_in_parent = 0

    def look_ahead(self) -> None:
        """Do nothing: every dump sends them whole."""

    def copy(self, first_id: int, objects: Sequence[SharedObject]) -> None:
        """Send the content of OBJECTS; the tree stands still. Raises TransferError, OSError."""
        for one in objects:
            image = f"pagemap-shmem-{one.shmid}"
            self._client.open(image)
            for run in filled_runs(one.local):
                for start, end in _pieces(run):
                    data = os.pread(one.local, end - start, start)
                    padded = data + bytes(end - start - len(data))  # the object may end within its last page
                    self._client.add(image, start, (end - start) // PAGE_SIZE, memoryview(padded))
                self.pages += run.pages

    def write_images(self, images: ImagesDir) -> None:
        """Write nothing: every dump sends them whole."""


def _pieces(run: Union[PageRun, Run]) -> Iterator[Tuple[int, int]]:
    for start in range(run.start, run.end, _PIECE * PAGE_SIZE):
        yield start, min(run.end, start + _PIECE * PAGE_SIZE)


def _read(reader: MemoryReader, buffer: memoryview, start: int) -> memoryview:
    try:
        reader.read_into(buffer, [(start, len(buffer))])
    except OSError as error:
        raise TargetError(f"memory of process {reader.pid} at {start:x} cannot be read ({error.strerror}); dump it again") from error
    return buffer
