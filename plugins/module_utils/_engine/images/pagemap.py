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
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
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
_AT_ONCE = 1 << 16
"""Bytes of a pagemap looked at together."""
_NUMBER = rb"([\x80-\xff]{0,9}[\0-\x7f])"
_HEAD = re.compile(rb"\x08" + _NUMBER)
_USUAL = re.compile(rb"(.)\0\0\0\x08" + _NUMBER + rb"\x10" + _NUMBER + rb"\x20([\0-\x7f])\x28" + _NUMBER, re.DOTALL)
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
        return _number(usual[1]) & 0xFFFFFFFF
    head = _message("pagemap_head")()
    fill(head, encoded, images.file(name), offset)
    return int(head.pages_id)


def iterate_runs(images: ImagesDir, name: str) -> Generator[Run, None, None]:
    """Yield the runs of the pagemap in image NAME in ascending order. Raises ImagesError as `read_pagemap` does."""
    end, path = 0, images.file(name)
    with images.source(name) as source:
        if source.left():
            source.entry("a pagemap_head")
        while source.left():
            block, at = source.peek(_AT_ONCE), 0
            found = _USUAL.match(block)
            while found is not None and found.end() - at == block[at] + 4:
                start, _pages, flags, pages = found.groups()[1:]
                run = _checked(_number(start), _number(pages), flags[0], path)
                if run.start < end:
                    raise _out_of_order(run, end, path)
                yield run
                at, end = found.end(), run.end
                found = _USUAL.match(block, at)
            source.skip(at)
            if not at:
                run = _unusual(source.entry("a pagemap_entry"), path, source.offset)
                if run.start < end:
                    raise _out_of_order(run, end, path)
                yield run
                end = run.end


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


def _unusual(encoded: bytes, path: str, offset: int) -> Run:
    """Return the run of an entry of any form; CRIU before 2.4 wrote in_parent and no flags, before 4.2 no nr_pages."""
    entry = _message("pagemap_entry")()
    fill(entry, encoded, path, offset - len(encoded))
    flags = entry.flags
    if entry.in_parent:
        flags |= PE_PARENT
    elif not entry.HasField("flags"):
        flags = PE_PRESENT
    return _checked(entry.vaddr, entry.nr_pages if entry.HasField("nr_pages") else entry.compat_nr_pages, flags, path)


def _checked(start: int, pages: int, flags: int, path: str) -> Run:
    if start % PAGE_SIZE or not pages or start + pages * PAGE_SIZE > 1 << 64:
        raise ImagesError(f"{path} is damaged: it has {pages} pages at {start:x}; use another copy of the dump")
    if not flags & (PE_PARENT | PE_PRESENT):
        raise ImagesError(f"{path} leaves the pages at {start:x} to a lazy-pages server; use a dump that holds all its pages")
    return Run(start, pages, bool(flags & PE_PARENT))


def _out_of_order(run: Run, end: int, path: str) -> ImagesError:
    return ImagesError(f"{path} is damaged: its pages at {run.start:x} come after those up to {end:x}; use another copy of the dump")


def _number(encoded: bytes) -> int:
    """Return the number that ENCODED stands for: seven bits a byte, the lowest first."""
    if len(encoded) == 1:
        return encoded[0]
    number = shift = 0
    for byte in encoded:
        number |= (byte & 0x7F) << shift
        shift += 7
    return number
