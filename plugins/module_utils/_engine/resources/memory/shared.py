# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The content of memory that tasks share: one object, however many map it or have it open.

images: pagemap-shmem-ID with its own pages file. Addresses in it count from the object's start. Write-protection knows one
address space only, so the whole object counts as changed in every dump.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, List, NamedTuple, Protocol, Sequence, Tuple

from ...errors import ImagesError
from ...images.chain import Extent
from ...images.fault import fault
from ...images.image import ImagesDir
from ...images.pagemap import PAGE_SIZE, Run, pages_path, write_runs
from ...kernel import hugetlb

_CHUNK = 1 << 21
"""Bytes of an object of huge pages that are read at once."""
_LARGEST = 1 << 30
"""Bytes moved by one system call, which takes less than 2 GiB."""


class SharedObject(NamedTuple):
    """Memory that is a file."""

    shmid: int
    """Its pagemap is pagemap-shmem-SHMID."""
    local: int
    """A descriptor of ours to read it by; its owner closes it."""
    entry: Any = None
    """Its memfd_inode_entry; None for a segment of System V shared memory."""

    @property
    def huge(self) -> bool:
        """Tell whether it is made of huge pages, which cannot be written but by mapping them. Raises OSError."""
        return _is_huge(self.local)


class SharedContent(Protocol):
    """What takes the content of shared memory in the stop."""

    @property
    def pages(self) -> int:
        """Pages taken."""

    def copy(self, first_id: int, objects: Sequence[SharedObject]) -> None:
        """Take the content of OBJECTS; pages files may have numbers from FIRST_ID on. Raises EngineError, OSError."""

    def write_images(self, images: ImagesDir) -> None:
        """Write what images are to know of it."""


@dataclass(frozen=True)
class _Object:
    shmid: int
    pages_id: int
    runs: Tuple[Run, ...]


class SharedMemory:
    """The shared objects of a tree while it is dumped."""

    def __init__(self, images_dir: str) -> None:
        self._images_dir = images_dir
        self._objects: List[_Object] = []

    def copy(self, first_id: int, objects: Sequence[SharedObject]) -> None:
        """Write the content of OBJECTS, from pages file FIRST_ID on; the tree stands still. Raises ImagesError, OSError."""
        for pages_id, one in enumerate(objects, start=first_id):
            runs = filled_runs(one.local)
            self._copy(one.local, runs, pages_path(self._images_dir, pages_id))
            self._objects.append(_Object(one.shmid, pages_id, runs))

    def _copy(self, source: int, runs: Sequence[Run], path: str) -> None:
        try:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                end = 0
                for run in runs:
                    _send(target, source, run.start, run.end)
                    end += run.end - run.start
                    os.lseek(target, end, os.SEEK_SET)  # behind what the object's end cuts off its last page
                os.truncate(target, end)
            finally:
                os.close(target)
        except OSError as error:
            raise ImagesError(str(fault("write", path, error))) from error

    def write_images(self, images: ImagesDir) -> None:
        """Write the pagemaps."""
        for one in self._objects:
            write_runs(images, f"pagemap-shmem-{one.shmid}", one.pages_id, one.runs)

    @property
    def pages(self) -> int:
        """Pages written."""
        return sum(run.pages for one in self._objects for run in one.runs)


def _send(target: int, source: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.sendfile(target, source, start, min(_LARGEST, end - start))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            done = os.write(target, os.pread(source, min(_CHUNK, end - start), start))  # hugetlbfs can only be read
        if not done:
            return  # the object ends within its last page
        start += done


def _is_huge(local: int) -> bool:
    status = os.fstat(local)
    return status.st_blksize > PAGE_SIZE and status.st_dev in hugetlb.devices()


def filled_runs(local: int) -> Tuple[Run, ...]:
    """Return the runs of pages of LOCAL that hold data. Raises OSError."""
    ranges = _filled_huge(local) if _is_huge(local) else _filled(local)
    return tuple(Run(start, (end - start) // PAGE_SIZE, False) for start, end in ranges)


def _filled(fd: int) -> Iterator[Tuple[int, int]]:
    """Yield the ranges of FD that hold data (lseek(2), SEEK_DATA)."""
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, -(-at // PAGE_SIZE) * PAGE_SIZE


def _filled_huge(fd: int) -> Iterator[Tuple[int, int]]:
    """Yield the ranges of FD that are not zeros: hugetlbfs does not tell its holes."""
    at, zeros = 0, bytes(_CHUNK)
    while content := os.pread(fd, _CHUNK, at):
        if content != zeros[: len(content)]:
            yield at, at + len(content)
        at += len(content)


def new_anonymous(size: int, flags: int = 0) -> int:
    """Return a descriptor of new anonymous shared memory of SIZE bytes, made with FLAGS. Raises OSError."""
    length = max(size, 1)
    memory = mmap.mmap(-1, length, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | flags)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = address + -(-length // PAGE_SIZE) * PAGE_SIZE
    return os.open(f"/proc/self/map_files/{address:x}-{end:x}", os.O_RDWR | os.O_CLOEXEC)


def fill(local: int, size: int, extents: Iterable[Extent]) -> None:
    """Give the object that LOCAL has open SIZE bytes, with the content that EXTENTS tell. Raises OSError, ImagesError, ChainError."""
    os.ftruncate(local, -(-size // PAGE_SIZE) * PAGE_SIZE)
    with mmap.mmap(local, 0) as memory, memoryview(memory) as view:
        for extent in extents:
            pages = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _read(pages, extent, view)
            finally:
                os.close(pages)
    os.ftruncate(local, size)


def extents_of(local: int) -> Iterator[Extent]:
    """Yield the content of the object that our descriptor LOCAL has open, for `fill`. Raises OSError."""
    for run in filled_runs(local):
        yield Extent(run.start, run.pages, f"/proc/self/fd/{local}", run.start)


def _read(pages: int, extent: Extent, view: memoryview) -> None:
    done, length = 0, extent.pages * PAGE_SIZE
    if extent.start + length > len(view):
        raise ImagesError(f"{extent.path} holds more than the shared memory that it is for; use another copy of the dump")
    while done < length:
        at = extent.start + done
        got = os.preadv(pages, [view[at : at + min(_LARGEST, length - done)]], extent.offset + done)
        if not got:
            raise ImagesError(f"{extent.path} is truncated; use another copy of the dump")
        done += got
