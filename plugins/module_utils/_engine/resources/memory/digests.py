# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The digests of shared memory, by which the next dump finds what has changed of it.

images: digests-shmem-ID, ours: a pagemap of all pages that hold data, by chunk, with the digest of each. CRIU passes over it.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Optional

from ...errors import ImagesError
from ...images.chain import Dump
from ...images.image import ImagesDir
from ...images.pagemap import PAGE_SIZE
from ...images.schema import message
from ...images.verification import verify_image
from .seen import ALGORITHM, DIGEST_SIZE, Chunk, SeenObject


def name_of(shmid: int) -> str:
    """Return the name of the image of object SHMID."""
    return f"digests-shmem-{shmid}"


def write(images: ImagesDir, shmid: int, seen: SeenObject) -> None:
    """Write the digests of object SHMID. Raises ImagesError."""
    images.write(name_of(shmid), _entries(seen))


def _entries(seen: SeenObject) -> Iterator[Any]:
    yield message("pagemap_head")(pages_id=0, stillframe_algorithm=ALGORITHM)
    for chunk in seen.chunks:
        at = 0
        for start, end in chunk.ranges:
            count = (end - start) // PAGE_SIZE
            size = count * DIGEST_SIZE
            entry = message("pagemap_entry")(vaddr=start, compat_nr_pages=count, stillframe_pages=chunk.pages[at : at + size])
            if not at:
                entry.stillframe_whole = chunk.whole
            at += size
            yield entry


def read(dump: Dump, shmid: int) -> Optional[SeenObject]:
    """Return object SHMID as DUMP saw it; None where it does not tell, or by other digests. Raises ChainError, ImagesError."""
    name = name_of(shmid)
    if not dump.images.has(name):
        return None
    verify_image(dump.path, dump.manifest, name)
    entries: List[Any] = list(dump.images.read(name))
    if not entries or entries[0].stillframe_algorithm != ALGORITHM:
        return None
    return SeenObject(_chunks(dump.images.file(name), entries[1:]))


def _chunks(path: str, entries: List[Any]) -> Iterator[Chunk]:
    chunk = Chunk((), b"", b"")
    for entry in entries:
        if len(entry.stillframe_pages) != entry.compat_nr_pages * DIGEST_SIZE or (not chunk.ranges and not entry.stillframe_whole):
            raise ImagesError(f"{path} is damaged: the digests at {entry.vaddr:x} are not whole; use another copy of the dump")
        if entry.stillframe_whole and chunk.ranges:
            yield chunk
        begins = bool(entry.stillframe_whole)
        ranges = [*(() if begins else chunk.ranges), (entry.vaddr, entry.vaddr + entry.compat_nr_pages * PAGE_SIZE)]
        whole, pages = (entry.stillframe_whole, b"") if begins else (chunk.whole, chunk.pages)
        chunk = Chunk(ranges, whole, pages + entry.stillframe_pages)
    if chunk.ranges:
        yield chunk
