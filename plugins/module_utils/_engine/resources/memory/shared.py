# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The content of memory that tasks share: one object, however many map it or have it open.

images: pagemap-shmem-ID with its own pages file. Addresses in it count from the object's start. Write-protection knows one
address space only, so what has changed since the parent is found by digests of its content.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple

from ...errors import ImagesError
from ...images.chain import Chain, Extent
from ...images.fault import fault
from ...images.image import ImagesDir
from ...images.pagemap import PAGE_SIZE, Run, pages_path, write_runs
from ...images.ranges import Range, difference, merged
from . import digests
from .filled import filled_runs, is_huge
from .seen import Filled, SeenObject

_PAGEMAP = "pagemap-shmem-"
_PIECE = 1 << 21
"""Bytes of an object of huge pages that are written at once."""
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
        return is_huge(self.local)


class SharedContent(Protocol):
    """What takes the content of shared memory in the stop."""

    @property
    def pages(self) -> int:
        """Pages taken."""

    @property
    def pages_in_parent(self) -> int:
        """Pages left to the parent."""

    def look_ahead(self) -> None:
        """Do what need not be done in the stop. Raises EngineError."""

    def copy(self, first_id: int, objects: Sequence[SharedObject]) -> None:
        """Take the content of OBJECTS; pages files may have numbers from FIRST_ID on. Raises EngineError, OSError."""

    def write_images(self, images: ImagesDir) -> None:
        """Write what images are to know of it."""


@dataclass(frozen=True)
class _Object:
    shmid: int
    path: str
    """Of its pages file."""
    pages_id: int
    runs: Tuple[Run, ...]
    seen: Optional[SeenObject]
    """None when it was not compared, but copied whole."""


class SharedMemory:
    """The shared objects of a tree while it is dumped."""

    def __init__(self, images_dir: str, parent: Optional[Chain] = None, remember: bool = False) -> None:
        """REMEMBER: a dump may come that has this one as its parent."""
        self._images_dir = images_dir
        self._parent = parent
        self._remember = remember
        self._before: Dict[int, SeenObject] = {}
        self._objects: List[_Object] = []

    def look_ahead(self) -> None:
        """Read what the parent tells of its objects: the tree runs still. Raises ChainError, ImagesError."""
        if self._parent is not None:
            shmids = [int(name[len(_PAGEMAP) :]) for name in self._parent.top.pagemaps() if name.startswith(_PAGEMAP)]
            found = ((shmid, digests.read(self._parent.top, shmid)) for shmid in shmids)
            self._before = {shmid: seen for shmid, seen in found if seen is not None}

    def copy(self, first_id: int, objects: Sequence[SharedObject]) -> None:
        """Write the content of OBJECTS, from pages file FIRST_ID on; the tree stands still. Raises ImagesError, OSError."""
        for pages_id, one in enumerate(objects, start=first_id):
            path, seen = pages_path(self._images_dir, pages_id), None if one.huge else self._before.get(one.shmid)
            try:
                target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    runs = _copy(target, one.local) if seen is None else _copy_changes(target, one.local, seen)
                finally:
                    os.close(target)
            except OSError as error:
                raise ImagesError(str(fault("write", path, error))) from error
            self._objects.append(_Object(one.shmid, path, pages_id, runs, seen))

    def write_images(self, images: ImagesDir) -> None:
        """Write the pagemaps, and the digests for the next dump. Raises ImagesError."""
        for one in self._objects:
            write_runs(images, f"{_PAGEMAP}{one.shmid}", one.pages_id, one.runs)
            if self._remember:
                digests.write(images, one.shmid, one.seen or _seen(one))

    @property
    def pages(self) -> int:
        """Pages written."""
        return sum(run.pages for one in self._objects for run in one.runs if not run.in_parent)

    @property
    def pages_in_parent(self) -> int:
        """Pages left to the parent."""
        return sum(run.pages for one in self._objects for run in one.runs if run.in_parent)


def _copy(target: int, source: int) -> Tuple[Run, ...]:
    """Write all of SOURCE to TARGET, and return what that is."""
    runs, end = filled_runs(source), 0
    for run in runs:
        _send(target, source, run.start, run.end)
        end += run.end - run.start
        os.lseek(target, end, os.SEEK_SET)  # behind what the object's end cuts off its last page
    os.truncate(target, end)
    return runs


def _copy_changes(target: int, source: int, seen: SeenObject) -> Tuple[Run, ...]:
    """Write what of SOURCE is not as it was SEEN before to TARGET; return that, and what is left to the parent."""
    written: List[Range] = []
    for change in seen.changes(source, os.fstat(source).st_size):
        if isinstance(change, Filled):
            written += change.ranges
            _write(target, change.data)
    runs = [_run(one, False) for one in merged(written)] + [_run(one, True) for one in difference(seen.ranges, merged(written))]
    return tuple(sorted(runs))


def _write(target: int, data: memoryview) -> None:
    while data:
        data = data[os.write(target, data) :]


def _run(one: Range, in_parent: bool) -> Run:
    return Run(one[0], (one[1] - one[0]) // PAGE_SIZE, in_parent)


def _seen(one: _Object) -> SeenObject:
    """Return an object as it was copied, from its pages. Raises ImagesError."""
    try:
        pages = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return SeenObject.of_pages(pages, one.runs)
        finally:
            os.close(pages)
    except (OSError, EOFError) as error:
        raise ImagesError(f"{one.path} cannot be read again ({error}); see the disk") from error


def _send(target: int, source: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.sendfile(target, source, start, min(_LARGEST, end - start))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            done = os.write(target, os.pread(source, min(_PIECE, end - start), start))  # hugetlbfs can only be read
        if not done:
            return  # the object ends within its last page
        start += done


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
