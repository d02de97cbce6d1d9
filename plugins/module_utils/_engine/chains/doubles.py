# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that a dump holds for nothing: zeros, which a hole reads as too, and pages that are the same in its parent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from ..errors import ChainError
from ..images.chain import Chain, Dump, Extent
from ..images.cursor import Cursor
from ..images.directory import pages_files
from ..images.fault import faults
from ..images.pagemap import PAGE_SIZE
from ..images.punch import check_punching, data_ranges, punch_all
from ..images.ranges import Range, merged

from .replacement import put_in_place, remove_old

_STEP = 1 << 20  # bytes looked at together
_WORTH = 16
"""A dump is made anew when at least one in so many of its pages goes: all others have to be copied."""
_ZEROS = bytes(_STEP)


def free_zeros(dump: Dump, check: bool) -> int:
    """Free the pages of zeros in the pages files of DUMP and return how many; with CHECK only count. Nothing reads otherwise then.

    Raises ImagesError.
    """
    pages = 0
    for path in pages_files(dump.path):
        with faults("read", path), open(path, "rb", buffering=0) as file:
            zeros = list(merged(_zeros(file.fileno())))
        pages += sum(end - start for start, end in zeros) // PAGE_SIZE
        if zeros and not check:
            check_punching(dump, os.path.basename(path))
            with faults("write", path), open(path, "r+b", buffering=0) as file:
                punch_all(file.fileno(), path, zeros)
    return pages


def _zeros(fd: int) -> Iterator[Range]:
    """Yield the whole pages of zeros in FD that are data, not holes, as ranges of bytes."""
    for low, high in data_ranges(fd):
        start = low // PAGE_SIZE * PAGE_SIZE
        while start < high:
            data = os.pread(fd, _STEP, start)[: high - start]
            if not data:
                return
            yield from ((start + begin, start + end) for begin, end in _zeros_of(data))
            start += len(data)


def _zeros_of(data: bytes) -> Iterator[Range]:
    if data == _ZEROS[: len(data)]:
        yield 0, len(data) // PAGE_SIZE * PAGE_SIZE
        return
    firsts = data[::PAGE_SIZE]
    number = firsts.find(0)
    while number >= 0:
        start = number * PAGE_SIZE
        if data[start : start + PAGE_SIZE] == _ZEROS[:PAGE_SIZE]:
            yield start, start + PAGE_SIZE
        number = firsts.find(0, number + 1)


def leave_to_parent(chain: Chain, check: bool) -> int:
    """Make the newest dump of CHAIN anew without the pages that its parent has too, and return how many; with CHECK only count.

    One that dedup has freed pages of, or of whose parents, is left alone, and one that has few such pages. Raises ChainError,
    ImagesError.
    """
    if len(chain.dumps) == 1 or any(record.gone for dump in chain.dumps if dump.manifest for record in dump.manifest.pages.values()):
        return 0
    plans = {name: partial(_compared, chain, name) for name in chain.top.pagemaps() if chain.dumps[1].images.has(name)}
    equal = {name: _equal(chain, name) for name in plans}
    pages = sum(equal.values())
    held = sum(os.path.getsize(path) for path in pages_files(chain.top.path)) // PAGE_SIZE
    if not pages or pages * _WORTH < held:
        return 0
    if not check:
        chain.verify_images()
        chain.verify_pages()
        put_in_place(chain, 1, {name: plan for name, plan in plans.items() if equal[name]})
        remove_old(os.path.realpath(chain.top.path))
    return pages


def _equal(chain: Chain, name: str) -> int:
    """Return how many pages the newest dump of CHAIN holds in pagemap NAME and its parent has too."""
    own = Cursor(chain.top.path, chain.top.manifest, name)
    held = sum(run.pages for run, _index in own.steps() if not run.in_parent)
    return held - sum(extent.pages for extent in _compared(chain, name) if extent.path)


def _compared(chain: Chain, name: str) -> Iterator[Extent]:
    """Yield the pages of pagemap NAME of the newest dump of CHAIN; those that its parent has too, or is to have, without a path."""
    own = Cursor(chain.top.path, chain.top.manifest, name)
    below = chain.below(1).iterate_extents(name)
    theirs = next(below, None)
    with _Reader() as reader:
        for run, index in own.steps():
            if run.in_parent:
                yield Extent(run.start, run.pages, "", 0)
                continue
            at, offset = run.start, index * PAGE_SIZE
            while at < run.end:
                while theirs is not None and theirs.start + theirs.pages * PAGE_SIZE <= at:
                    theirs = next(below, None)
                if theirs is None or theirs.start >= run.end:
                    end = run.end
                elif theirs.start > at:
                    end = theirs.start
                else:
                    end = min(run.end, theirs.start + theirs.pages * PAGE_SIZE, at + _STEP)
                    ours = reader.read(own.pages_path, offset, end - at)
                    for start, stop, same in _parts(ours, reader.read(theirs.path, theirs.offset + at - theirs.start, end - at)):
                        yield Extent(at + start, (stop - start) // PAGE_SIZE, "" if same else own.pages_path, offset + start)
                    at, offset = end, offset + end - at
                    continue
                yield Extent(at, (end - at) // PAGE_SIZE, own.pages_path, offset)
                at, offset = end, offset + end - at


def _parts(ours: bytes, theirs: bytes, start: int = 0) -> Iterator[tuple[int, int, bool]]:
    """Yield which parts of OURS are the same in THEIRS, halving them where they are not."""
    if ours == theirs:
        yield start, start + len(ours), True
    elif len(ours) <= PAGE_SIZE:
        yield start, start + len(ours), False
    else:
        half = len(ours) // PAGE_SIZE // 2 * PAGE_SIZE
        yield from _parts(ours[:half], theirs[:half], start)
        yield from _parts(ours[half:], theirs[half:], start + half)


class _Reader:
    """Reads parts of pages files. A context manager."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Return SIZE bytes from OFFSET of the file at PATH. Raises ImagesError, ChainError when there are less."""
        with faults("read", path):
            if path not in self._fds:
                self._fds[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(self._fds[path], size, offset)
        if len(data) < size:
            raise ChainError(f"{path} is truncated at offset {offset + len(data)}; use another copy of the dump", path, offset + len(data))
        return data
