# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the files of one dump against the checksums in its manifest."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from ..errors import ChainError
from .checksum import STRETCH, Checksummer, available
from .fault import fault
from .magic import kind_of
from .manifest import STILLFRAME, Manifest, PagesRecord
from .pagemap import PAGE_SIZE
from .ranges import Range


def verify_images(images_dir: str, manifest: Manifest | None) -> None:
    """Check every image file that MANIFEST lists but the pages. Raises ChainError for the first that differs.

    A dump without a manifest, made by CRIU, has nothing to be checked against.
    """
    if manifest is not None:
        for name in sorted(manifest.images):
            _verify_file(os.path.join(images_dir, name), name, manifest)


def verify_image(images_dir: str, manifest: Manifest | None, name: str) -> None:
    """Check image NAME alone as `verify_images` does."""
    file_name = name + kind_of(name).suffix
    if manifest is not None and (file_name in manifest.images or (manifest.images and manifest.made_by == STILLFRAME)):
        _verify_file(os.path.join(images_dir, file_name), file_name, manifest)


def verify_pages(path: str, manifest: Manifest | None, stretches: Iterable[int]) -> None:
    """Check the STRETCHES of pages file PATH. Raises ChainError for the first that differs."""
    record = manifest.pages.get(os.path.basename(path)) if manifest else None
    if manifest is None or record is None or not record.stretches:
        return
    checksummer = checksummer_for(manifest, path, record.algorithm)
    try:
        with open(path, "rb") as file:
            _check_size(path, os.fstat(file.fileno()).st_size, record.size)
            for index in sorted(stretches):
                verify_stretch(path, file.fileno(), checksummer, record, index)
    except OSError as error:
        raise ChainError(str(fault("read", path, error))) from error


def verify_stretch(path: str, fd: int, checksummer: Checksummer, record: PagesRecord, index: int) -> None:
    """Check stretch INDEX of pages file PATH, open as FD, against RECORD. Raises ChainError, OSError."""
    try:
        found = checksummer.stretch(fd, record.size, index, blank_bytes(record.gone, index))
    except EOFError as error:
        raise ChainError(f"{path} is truncated at offset {error}; use another copy of the dump") from error
    if index >= len(record.stretches) or found != record.stretches[index]:
        start, end = index * STRETCH, min((index + 1) * STRETCH, record.size)
        raise ChainError(f"{path} is damaged between offsets {start} and {end}: its checksum does not match; use another copy of the dump")


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


def _verify_file(path: str, name: str, manifest: Manifest) -> None:
    record = manifest.images.get(name)
    if record is None:
        raise ChainError(f"{path} was not there when the dump was made; use another copy of the dump")
    checksummer = checksummer_for(manifest, path, record.algorithm)
    try:
        with open(path, "rb") as file:
            _check_size(path, os.fstat(file.fileno()).st_size, record.size)
            found = checksummer.whole(file.fileno(), record.size)
    except OSError as error:
        raise ChainError(str(fault("read", path, error))) from error
    if found != record.checksum:
        raise ChainError(f"{path} is damaged: its checksum does not match; use another copy of the dump")


def _check_size(path: str, found: int, written: int) -> None:
    if found < written:
        raise ChainError(f"{path} is truncated at offset {found}: it had {written} bytes when it was written; use another copy of the dump")
    if found > written:
        raise ChainError(f"{path} has {found} bytes and had {written} when it was written; use another copy of the dump")
