# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeing pages of the pages files of a dump: first the manifest says which are gone, then the filesystem takes them back.

So whenever it is interrupted, nobody takes a hole for a page: what is still there but said to be gone is not used either.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import ImagesError
from ..kernel.fallocate import punch_holes
from .chain import Dump
from .checksum import stretches_of
from .fault import fault, faults
from .manifest import CRIU, Manifest, PagesRecord
from .pagemap import PAGE_SIZE
from .ranges import Range, difference, intersection, total, union
from .verification import checksummer_for, truncated, verify_and_blank

BLOCK = 512
"""Bytes that st_blocks counts in, whatever the filesystem's own blocks are (stat(2))."""


@dataclass(frozen=True)
class Superfluous:
    """Pages of one dump that no newer dump of its chain reads."""

    dump: Dump
    pages: Mapping[str, Sequence[Range]]
    """By name of the pages file: ranges of page numbers in it, sorted."""

    def new(self) -> int:
        """Return how many of the pages are not yet said to be gone."""
        return sum(total(difference(ranges, _record(self.dump, name).gone)) for name, ranges in self.pages.items())

    def bytes_allocated(self) -> int:
        """Return how many bytes of the pages are data in the filesystem, not holes (lseek(2), SEEK_DATA). Raises ImagesError."""
        allocated = 0
        for name, ranges in self.pages.items():
            path = os.path.join(self.dump.path, name)
            with faults("read", path), open(path, "rb") as file:
                spans = ((start * PAGE_SIZE, end * PAGE_SIZE) for start, end in ranges)
                allocated += total(intersection(spans, data_ranges(file.fileno())))
        return allocated


def allocated_bytes(path: str) -> int:
    """Return the bytes that file PATH takes on disk, 0 when there is none. Raises ImagesError."""
    try:
        return os.stat(path).st_blocks * BLOCK
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise fault("read", path, error) from error


def check_punching(dump: Dump, name: str) -> None:
    """Raise ImagesError when pages file NAME of DUMP cannot be written or its filesystem cannot free parts of a file. Changes nothing."""
    path = os.path.join(dump.path, name)
    with faults("write", path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            beyond = -(-os.fstat(fd).st_size // PAGE_SIZE) * PAGE_SIZE
            punch_all(fd, path, [(beyond, beyond + PAGE_SIZE)])  # past the end there is nothing to lose
        finally:
            os.close(fd)


def without(superfluous: Superfluous) -> Manifest:
    """Return the manifest of the dump as it is to be once the pages are gone. Raises ChainError, ImagesError.

    What is damaged stays so: the pages that go are taken off the checksums, and checksums of before, from which nothing can be
    taken off, are checked first.
    """
    dump = superfluous.dump
    manifest = dump.manifest or Manifest(id="", kind=dump.kind, made_by=CRIU, page_size=PAGE_SIZE)
    records = dict(manifest.pages)
    for name, ranges in superfluous.pages.items():
        records[name] = _without(os.path.join(dump.path, name), manifest, _record(dump, name), ranges)
    return replace(manifest, pages=records)


def punch(superfluous: Superfluous) -> None:
    """Free the pages; the manifest made by `without` has been written by then. Raises ImagesError."""
    for name, ranges in superfluous.pages.items():
        path = os.path.join(superfluous.dump.path, name)
        with faults("write", path):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                punch_all(fd, path, ((start * PAGE_SIZE, end * PAGE_SIZE) for start, end in ranges))
            finally:
                os.close(fd)


def punch_range(path: str, offset: int, length: int) -> None:
    """Free the LENGTH bytes from OFFSET of pages file PATH, which its manifest says to be gone. Raises ImagesError."""
    with faults("write", path):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            punch_all(fd, path, [(offset, offset + length)])
        finally:
            os.close(fd)


def _without(path: str, manifest: Manifest, record: PagesRecord, ranges: Sequence[Range]) -> PagesRecord:
    gone = union(record.gone, ranges)
    fresh = list(difference(ranges, record.gone))
    checksums = list(record.stretches)
    if checksums and fresh:
        checksummer = checksummer_for(manifest, path, record.algorithm)
        with faults("read", path), open(path, "rb", buffering=0) as file:
            if not checksummer.summed:
                for index in _touched(fresh):
                    checksums[index] = verify_and_blank(path, file.fileno(), checksummer, record, index, gone)
            else:
                try:
                    bytes_gone = ((start * PAGE_SIZE, end * PAGE_SIZE) for start, end in fresh)
                    checksummer.take_off(checksums, file.fileno(), record.size, bytes_gone)
                except EOFError as error:
                    raise truncated(path, error) from error
    return replace(record, stretches=tuple(checksums), gone=gone)


def _touched(ranges: Sequence[Range]) -> list[int]:
    return sorted({index for start, end in ranges for index in stretches_of(start * PAGE_SIZE, (end - start) * PAGE_SIZE)})


def _record(dump: Dump, name: str) -> PagesRecord:
    records = dump.manifest.pages if dump.manifest else {}
    path = os.path.join(dump.path, name)
    with faults("read", path):
        return records[name] if name in records else PagesRecord(os.stat(path).st_size)


def data_ranges(fd: int) -> list[Range]:
    """Return the ranges of bytes of FD that are no holes."""
    found: list[Range] = []
    end, size = 0, os.fstat(fd).st_size
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        found.append((start, end))
    return found


def punch_all(fd: int, path: str, ranges: Iterable[Range]) -> None:
    """Free RANGES of bytes of FD, open at PATH; they read as zeros then. Raises ImagesError where that can't be, OSError."""
    try:
        punch_holes(fd, ranges)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise ImagesError(
                f"the filesystem of {path} cannot free parts of a file (no hole punching); "
                "keep the dumps on ext4, xfs, btrfs or tmpfs to deduplicate them"
            ) from error
        raise
