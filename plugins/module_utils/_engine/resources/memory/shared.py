# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Anonymous memory that tasks share (MAP_SHARED | MAP_ANONYMOUS): one object, however many map it.

images: pagemap-shmem-ID, ID being the inode of the object, with its own pages file. Addresses in it count from the
object's start. Write-protection knows one address space only, so the whole object counts as changed in every dump.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from ...errors import ImagesError
from ...images.chain import Chain
from ...images.fault import fault
from ...images.image import ImagesDir
from ...images.pagemap import PAGE_SIZE, Run, pages_path, write_runs
from .mapping import VMA_ANON_SHARED, Mapping

_STEP = 1 << 20


@dataclass(frozen=True)
class _Object:
    shmid: int
    pages_id: int
    runs: Tuple[Run, ...]


class SharedMemory:
    """The shared objects of a tree while it is dumped."""

    def __init__(self, images_dir: str) -> None:
        self._images_dir = images_dir
        self._mapped: Dict[int, str] = {}
        self._objects: List[_Object] = []

    def add(self, pid: int, mappings: Sequence[Mapping]) -> None:
        """Take note of the objects that PID maps."""
        for mapping in mappings:
            if mapping.status & VMA_ANON_SHARED:
                self._mapped.setdefault(mapping.area.inode, f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}")

    def copy(self, first_id: int) -> None:
        """Write the content of every object, from pages file FIRST_ID on; the tree stands still. Raises ImagesError, OSError."""
        for number, (shmid, path) in enumerate(self._mapped.items()):
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                runs = tuple(Run(start, (end - start) // PAGE_SIZE, False) for start, end in _filled(source))
                self._copy(source, runs, pages_path(self._images_dir, first_id + number))
            finally:
                os.close(source)
            self._objects.append(_Object(shmid, first_id + number, runs))

    def _copy(self, source: int, runs: Sequence[Run], path: str) -> None:
        try:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                end = 0
                for run in runs:
                    for at in range(run.start, run.end, _STEP):
                        content = os.pread(source, min(_STEP, run.end - at), at)
                        _write_all(target, content, end)
                        end += len(content)
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


def _write_all(fd: int, data: bytes, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def object_sizes(tasks: Iterable[Sequence[Any]]) -> Dict[int, int]:
    """Return the bytes of each shared object that the vmas of TASKS, of their mm images, map."""
    sizes: Dict[int, int] = {}
    for vmas in tasks:
        for vma in vmas:
            if vma.status & VMA_ANON_SHARED:
                sizes[vma.shmid] = max(sizes.get(vma.shmid, 0), vma.pgoff + vma.end - vma.start)
    return sizes


def restore_object(chain: Chain, shmid: int, size: int) -> int:
    """Make object SHMID of SIZE bytes again, filled from CHAIN, and return a descriptor to map it by. Raises OSError, ChainError."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    target = os.open(f"/proc/self/map_files/{address:x}-{address + size:x}", os.O_RDWR | os.O_CLOEXEC)
    for extent in chain.iterate_extents(f"pagemap-shmem-{shmid}"):
        with open(extent.path, "rb", buffering=0) as pages:
            length = extent.pages * PAGE_SIZE
            for done in range(0, length, _STEP):
                content = os.pread(pages.fileno(), min(_STEP, length - done), extent.offset + done)
                _write_all(target, content, extent.start + done)
    return target
