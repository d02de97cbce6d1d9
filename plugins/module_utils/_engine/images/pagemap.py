# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pagemaps: which pages a dump holds, and which are to be looked up in its parent (images/pagemap.proto of CRIU 4.2).

The pages that a pagemap calls present lie in `pages-N.img`, N being the pagemap's pages_id, one after the other in the
order of the runs.
"""

from __future__ import annotations

import mmap
import os
import re
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice, repeat
from operator import add, le, mul, or_
from typing import Any, NamedTuple

from ..errors import ImagesError
from .image import ImagesDir, fill
from .magic import SUFFIX

PE_PARENT = 1 << 0
"""The pages are in the parent dump."""
PE_LAZY = 1 << 1
"""The pages may be filled in after the restore."""
PE_PRESENT = 1 << 2
"""The pages are in the pages file of this dump."""
PAGE_SIZE = mmap.PAGESIZE
MAX_RUN = 0xFFFFFFFF
"""Pages: the most that compat_nr_pages, the only count that CRIU before 4.2 knows, can tell."""
_LEAST, _MOST = 1 << 8, 1 << 16
"""Bytes of a pagemap looked at together: few behind an entry of another form than the usual, then ever more."""
_NUMBER = rb"([\x80-\xff]{0,7}[\0-\x7f])"
_HEAD = re.compile(rb"\x08" + _NUMBER)
_USUAL = re.compile(rb"(.\0\0\0\x08" + _NUMBER + rb"\x10[\x80-\xff]{0,7}[\0-\x7f]\x20([\0-\x7f])\x28" + _NUMBER + rb")", re.DOTALL)
"""An entry as CRIU 4.2 and we write it, with its length: vaddr, compat_nr_pages, flags, nr_pages."""


class Run(NamedTuple):
    """Adjacent pages that lie in the same place: in this dump, or in its parent."""

    start: int
    """Address of the first page; for a shared-memory pagemap, its offset in the object."""
    pages: int
    in_parent: bool

    @property
    def end(self) -> int:
        """Address after the last page."""
        return self.start + self.pages * PAGE_SIZE


@dataclass(frozen=True)
class Pagemap:
    """The pagemap of one address space ("pagemap-PID") or of one shared-memory object ("pagemap-shmem-ID")."""

    pages_id: int
    runs: tuple[Run, ...]
    """Sorted by address, not overlapping."""


def write_pagemap(images: ImagesDir, name: str, pagemap: Pagemap) -> None:
    """Write PAGEMAP as image NAME. Raises ImagesError."""
    write_runs(images, name, pagemap.pages_id, pagemap.runs)


def write_runs(images: ImagesDir, name: str, pages_id: int, runs: Iterable[Run], suffix: str = "") -> None:
    """Write image NAME, SUFFIX added to its file name, from RUNS, which may be too many to be held at once. Raises ImagesError."""
    images.write(name, _with_head(_message("pagemap_head")(pages_id=pages_id), runs), suffix)


def read_pagemap(images: ImagesDir, name: str) -> Pagemap:
    """Return the pagemap that image NAME holds. Raises ImagesError when it is damaged or out of order."""
    return Pagemap(pages_id(images, name), tuple(iterate_runs(images, name)))


def pages_id(images: ImagesDir, name: str) -> int:
    """Return the number of the pages file that belongs to the pagemap in image NAME. Raises ImagesError."""
    with images.source(name) as source:
        if not source.left():
            raise ImagesError(f"{images.file(name)} is empty; use another copy of the dump")
        offset, encoded = source.offset, source.entry("a pagemap_head")
    usual = _HEAD.fullmatch(encoded)
    if usual is not None:
        return _numbers([usual[1]])[0] & 0xFFFFFFFF
    head = _message("pagemap_head")()
    fill(head, encoded, images.file(name), offset)
    return int(head.pages_id)


def iterate_runs(images: ImagesDir, name: str) -> Generator[Run, None, None]:
    """Yield the runs of the pagemap in image NAME in ascending order. Raises ImagesError as `read_pagemap` does."""
    end, path, window = 0, images.file(name), _MOST
    with images.source(name) as source:
        if source.left():
            source.entry("a pagemap_head")
        while source.left():
            runs, size = _usual(source.peek(window))
            if runs and runs[0].start >= end:
                source.skip(size)
                window = min(2 * window, _MOST)
                yield from runs
                end = runs[-1].end
                continue
            window = _LEAST
            run = _any(source.entry("a pagemap_entry"), path, source.offset)
            if run.start < end:
                text = f"its pages at {run.start:x} come after those up to {end:x}; use another copy of the dump"
                raise ImagesError(f"{path} is damaged: {text}")
            yield run
            end = run.end


def _usual(block: bytes) -> tuple[list[Run], int]:
    """Return the runs that BLOCK begins with and their size in it, none unless all that looks like an entry in it is one and is right."""
    entries = _USUAL.findall(block) if _USUAL.match(block) else []
    if not entries:
        return [], 0
    texts, starts, flags, counts = zip(*entries)
    size = sum(map(len, texts))
    addresses, pages = _numbers(starts), _numbers(counts)
    ends = list(map(add, addresses, map(mul, pages, repeat(PAGE_SIZE))))
    good = (
        b"".join(texts) == block[:size]
        and all(text[0] == len(text) - 4 for text in texts)
        and not reduce(or_, addresses) % PAGE_SIZE
        and all(pages)
        and all(map(le, ends, islice(addresses, 1, None)))
        and {flag[0] & (PE_PARENT | PE_PRESENT) for flag in set(flags)} <= {PE_PARENT, PE_PRESENT, PE_PARENT | PE_PRESENT}
    )
    return (list(map(Run, addresses, pages, [bool(flag[0] & PE_PARENT) for flag in flags])), size) if good else ([], 0)


def _numbers(encoded: Sequence[bytes]) -> array[int]:
    """Return the numbers that ENCODED stand for, each of up to eight bytes with seven bits, the lowest first: all of them at once."""
    count = len(encoded)
    lanes = int.from_bytes(b"".join([one.ljust(8, b"\0") for one in encoded]), "little")
    for mask, shift in ((0x7F, 1), (0x3FFF, 2), (0xFFFFFFF, 4)):
        width = 16 * shift
        low = int.from_bytes(mask.to_bytes(width // 8, "little") * (64 // width * count), "little")
        lanes = lanes & low | lanes >> shift & low << mask.bit_length()
    return array("Q", lanes.to_bytes(8 * count, "little"))


def pages_path(images_dir: str, number: int) -> str:
    """Return the path of pages file NUMBER of the dump in IMAGES_DIR."""
    return os.path.join(images_dir, f"pages-{number}{SUFFIX}")


def _message(name: str) -> Any:
    from . import schema

    return schema.message(name)


def _with_head(head: Any, runs: Iterable[Run]) -> Iterator[Any]:
    """Yield HEAD and an entry for each of RUNS, which is the same object each time."""
    yield head
    entry = _message("pagemap_entry")()  # one for all: there may be a million
    for run in runs:
        entry.flags = PE_PARENT if run.in_parent else PE_PRESENT
        for done in range(0, run.pages, MAX_RUN):
            entry.vaddr = run.start + done * PAGE_SIZE
            entry.compat_nr_pages = entry.nr_pages = min(run.pages - done, MAX_RUN)
            yield entry


def _any(encoded: bytes, path: str, offset: int) -> Run:
    """Return the run of an entry of any form; CRIU before 2.4 wrote in_parent and no flags, before 4.2 no nr_pages."""
    entry = _message("pagemap_entry")()
    fill(entry, encoded, path, offset - len(encoded))
    flags = entry.flags
    if entry.in_parent:
        flags |= PE_PARENT
    elif not entry.HasField("flags"):
        flags = PE_PRESENT
    pages = entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages
    if entry.vaddr % PAGE_SIZE or not pages or entry.vaddr + pages * PAGE_SIZE > 1 << 64:
        raise ImagesError(f"{path} is damaged: it has {pages} pages at {entry.vaddr:x}; use another copy of the dump")
    if not flags & (PE_PARENT | PE_PRESENT):
        raise ImagesError(f"{path} leaves the pages at {entry.vaddr:x} to a lazy-pages server; use a dump that holds all its pages")
    return Run(entry.vaddr, pages, bool(flags & PE_PARENT))
