# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the files of one dump against the checksums in its manifest."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..errors import ChainError, ImagesError
from .checksum import NOTHING, STRETCH, Checksummer, available, stretches_of
from .cold import AT_ONCE, ZST, reading_cold
from .directory import PAGES, dump_files
from .fault import fault
from .magic import SUFFIX, kind_of
from .manifest import STILLFRAME, Manifest, PagesRecord
from .pagemap import PAGE_SIZE
from .ranges import Range


def verify_images(images_dir: str, manifest: Manifest | None) -> None:
    """Check every image file but the pages. Raises ChainError for the first that differs.

    A dump without a manifest, made by CRIU, has nothing to be checked against.
    """
    _raise_first(image_faults(images_dir, manifest))


def image_faults(images_dir: str, manifest: Manifest | None) -> Iterator[ChainError]:
    """Yield what is wrong with the image files of a dump, as MANIFEST lists them; the pages aside."""
    if manifest is None or not manifest.images:
        return
    for name in sorted(manifest.images):
        yield from _file_faults(os.path.join(images_dir, name), name, manifest)
    for name in dump_files(images_dir):
        received = bool(manifest.page_server) and name.startswith("pagemap-")  # by CRIU's page server, which keeps no checksums
        listed = name in manifest.images or name.startswith(PAGES) or received or manifest.made_by != STILLFRAME
        if name.endswith(SUFFIX) and not listed:
            path = os.path.join(images_dir, name)
            yield ChainError(f"{path} was not there when the dump was made; take it away", path)


def verify_image(images_dir: str, manifest: Manifest | None, name: str) -> None:
    """Check image NAME alone as `verify_images` does."""
    file_name = name + kind_of(name).suffix
    if manifest is not None and (file_name in manifest.images or (manifest.images and manifest.made_by == STILLFRAME)):
        _raise_first(_file_faults(os.path.join(images_dir, file_name), file_name, manifest))


def verify_pages(path: str, manifest: Manifest | None, stretches: Iterable[int]) -> None:
    """Check the STRETCHES of pages file PATH. Raises ChainError for the first that differs."""
    _raise_first(pages_faults(path, manifest, stretches))


def pages_faults(
    path: str, manifest: Manifest | None, stretches: Iterable[int] | None = None, count: Callable[[int], None] | None = None
) -> Iterator[ChainError]:
    """Yield what is wrong with pages file PATH in STRETCHES, by default all that MANIFEST has checksums of. COUNT gets the bytes read."""
    record = manifest.pages.get(os.path.basename(path)) if manifest else None
    if manifest is None or record is None or not record.stretches:
        return
    try:
        checksummer = checksummer_for(manifest, path, record.algorithm)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield from size_faults(path, size, record.size)
            for index in stretches_of(0, record.size) if stretches is None else sorted(stretches):
                if size < min((index + 1) * STRETCH, record.size):
                    return  # told already
                try:
                    verify_stretch(path, file.fileno(), checksummer, record, index)
                except ChainError as error:
                    yield error
                if count is not None:
                    count(STRETCH)
    except OSError as error:
        yield ChainError(str(fault("read", path, error)), path)
    except ChainError as error:
        yield error


def cold_faults(path: str, manifest: Manifest | None) -> Iterator[ChainError]:
    """Yield what is wrong with pages file PATH, which is compressed, whatever dump it is of."""
    record = manifest.pages.get(os.path.basename(path)) if manifest else None
    try:
        with reading_cold(path) as (size, read):
            if manifest is None or record is None or not record.stretches:
                while read(AT_ONCE):
                    pass  # zstd has a checksum of its own
                return
            yield from size_faults(path + ZST, size, record.size)
            checksummer = checksummer_for(manifest, path, record.algorithm)
            for index, told in enumerate(record.stretches):
                view = memoryview(bytearray(read(min(STRETCH, record.size - index * STRETCH))))
                if checksummer.without(view, index * STRETCH, blank_bytes(record.gone, index)) != told:
                    text = f"{path}{ZST} is damaged, or not of this dump: a checksum does not match; use another copy of the dump"
                    yield ChainError(text, path + ZST, index * STRETCH)
                    return
            read(1)  # lets zstd come to its own checksum
    except ImagesError as error:
        yield error if isinstance(error, ChainError) else ChainError(str(error), path + ZST)


def verify_stretch(path: str, fd: int, checksummer: Checksummer, record: PagesRecord, index: int) -> None:
    """Check stretch INDEX of pages file PATH, open as FD, against RECORD. Raises ChainError, OSError."""
    verify_and_blank(path, fd, checksummer, record, index, None)


def verify_and_blank(path: str, fd: int, checksummer: Checksummer, record: PagesRecord, index: int, gone: Sequence[Range] | None) -> str:
    """Check a stretch as `verify_stretch` does, and return the checksum that it has once the pages GONE are zeros."""
    then = None if gone is None else blank_bytes(gone, index)
    missing = blank_bytes(record.gone, index)
    if missing and missing[0][0] <= index * STRETCH and missing[0][1] >= min((index + 1) * STRETCH, record.size):
        return NOTHING
    try:
        found, fresh = checksummer.stretch_twice(fd, record.size, index, missing, then)
    except EOFError as error:
        raise truncated(path, error) from error
    if index >= len(record.stretches) or found != record.stretches[index]:
        start, end = index * STRETCH, min((index + 1) * STRETCH, record.size)
        text = f"{path} is damaged between offsets {start} and {end}: its checksum does not match; use another copy of the dump"
        raise ChainError(text, path, start)
    return fresh


def truncated(path: str, error: EOFError) -> ChainError:
    """Return what is said of pages file PATH, at whose end ERROR was met."""
    offset = int(error.args[0])
    return ChainError(f"{path} is truncated at offset {offset}; use another copy of the dump", path, offset)


def blank_bytes(gone: Sequence[Range], index: int) -> list[Range]:
    """Return the byte ranges of those of the pages GONE, which are sorted, that touch stretch INDEX."""
    low, high = index * STRETCH // PAGE_SIZE, -(-(index + 1) * STRETCH // PAGE_SIZE)
    first = max(bisect_right(gone, (low, low)) - 1, 0)
    touching = gone[first : bisect_left(gone, (high, high), first)]
    return [(start * PAGE_SIZE, end * PAGE_SIZE) for start, end in touching]


def checksummer_for(manifest: Manifest, path: str, algorithm: str = "") -> Checksummer:
    """Return a checksummer for the checksums that MANIFEST has of PATH, by its own ALGORITHM if it has one.

    Raises ChainError when this Python has none.
    """
    if manifest.stretch != STRETCH:
        raise ChainError(f"{path} has checksums of {manifest.stretch} bytes each, not {STRETCH}; use the Stillframe that made the dump")
    algorithm = algorithm or manifest.algorithm
    if not available(algorithm):
        raise ChainError(f"{path} has {algorithm} checksums that this Python cannot compute; install its xxhash module")
    return Checksummer(algorithm)


def _file_faults(path: str, name: str, manifest: Manifest) -> Iterator[ChainError]:
    record = manifest.images.get(name)
    if record is None:
        yield ChainError(f"{path} was not there when the dump was made; use another copy of the dump", path)
        return
    try:
        checksummer = checksummer_for(manifest, path, record.algorithm)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield from size_faults(path, size, record.size)
            if size == record.size and checksummer.whole(file.fileno(), size) != record.checksum:
                yield ChainError(f"{path} is damaged: its checksum does not match; use another copy of the dump", path)
    except OSError as error:
        yield ChainError(str(fault("read", path, error)), path)
    except ChainError as error:
        yield error


def size_faults(path: str, found: int, written: int) -> Iterator[ChainError]:
    """Yield what is wrong with the size of PATH, which is FOUND, and was WRITTEN."""
    if found < written:
        text = f"{path} is truncated at offset {found}: it had {written} bytes when it was written; use another copy of the dump"
        yield ChainError(text, path, found)
    elif found > written:
        yield ChainError(f"{path} has {found} bytes and had {written} when it was written; use another copy of the dump", path, written)


def _raise_first(faults: Iterator[ChainError]) -> None:
    for one in faults:
        raise one
