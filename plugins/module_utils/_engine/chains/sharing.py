# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Equal pages anywhere in the pages files of a chain: on a filesystem that can, they come to lie in one place (kernel/reflink.py).

Pages are found by a checksum, some at a time: all are read once, and their checksums sorted into unlinked files beside the dumps, each
of which is then looked through by itself, so that memory does not grow with the chain.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ..images.chain import Chain
from ..images.checksum import PIECE, Checksummer, fastest
from ..images.directory import pages_files
from ..images.fault import faults
from ..images.pagemap import PAGE_SIZE
from ..images.punch import data_ranges
from ..kernel.reflink import can_share, places, share

_AT_ONCE = 1 << 17
"""Pages whose checksums are compared together: some 20 MiB of ours."""
_RECORDS = 1 << 13
_SHIFT = 40
_STEP = 1 << 20


def share_equal(chain: Chain, check: bool) -> int:
    """Let equal pages of CHAIN lie in one place and return how many bytes do so now; with CHECK only tell. Raises ImagesError.

    Nothing reads otherwise at any moment. Where the filesystem cannot do that, nothing is done.
    """
    paths = list(dict.fromkeys(os.path.realpath(path) for dump in chain.dumps[::-1] for path in pages_files(dump.path)))
    paths = [path for path in paths if os.path.getsize(path) >= PAGE_SIZE]
    if PAGE_SIZE != PIECE or not paths:
        return 0
    with ExitStack() as stack, faults("write", paths[0]):
        fds = [stack.enter_context(open(path, "rb" if check else "r+b", buffering=0)).fileno() for path in paths]
        if not can_share(fds[0], fds[0]):
            return 0
        return sum(_share(fds, twins, check) for bucket in _buckets(fds, os.path.dirname(paths[-1])) for twins in _equal(bucket))


class _Twins(NamedTuple):
    """Pages that are equal by their checksums, as many here as there."""

    first: int
    """Number of the file, shifted, and that of the page in it; so is the second."""
    second: int
    pages: int


def _buckets(fds: Sequence[int], beside: str) -> Iterator[array[int]]:
    """Yield records, checksum and place of a page of FDS, in turn; those of equal pages come together. Raises OSError."""
    count = sum(os.fstat(fd).st_size for fd in fds) // PAGE_SIZE // _AT_ONCE + 1
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile(dir=beside)) for _bucket in range(count)]
        waiting = [array("Q") for _bucket in range(count)]
        for number, fd in enumerate(fds):
            for page, checksum in _checksums(fd):
                records = waiting[checksum % count]
                records.extend((checksum, number << _SHIFT | page))
                if len(records) >= _RECORDS:
                    records.tofile(files[checksum % count])
                    del records[:]
        for file, records in zip(files, waiting):
            file.seek(0)
            yield array("Q", file.read()) + records


def _checksums(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the number of each page of FD that is no hole, and a checksum of it. Raises OSError."""
    checksummer = Checksummer(fastest())
    for low, high in data_ranges(fd):
        for start in range(low // PAGE_SIZE * PAGE_SIZE, high, _STEP):
            data = memoryview(os.pread(fd, min(_STEP, high - start), start))
            for at in range(0, len(data) - PAGE_SIZE + 1, PAGE_SIZE):
                yield (start + at) // PAGE_SIZE, int(checksummer.of(data[at : at + PAGE_SIZE]), 16)


def _equal(records: array[int]) -> Iterator[_Twins]:
    """Yield which pages of RECORDS are equal to one that came before, neighbours together."""
    first: dict[int, int] = {}
    pairs = []
    for checksum, place in zip(records[::2], records[1::2]):
        twin = first.setdefault(checksum, place)
        if twin != place:
            pairs.append((place, twin))
    last = _Twins(0, 0, 0)
    for second, one in sorted(pairs):
        if last.pages and (one, second) == (last.first + last.pages, last.second + last.pages):
            last = last._replace(pages=last.pages + 1)
            continue
        if last.pages:
            yield last
        last = _Twins(one, second, 1)
    if last.pages:
        yield last


def _share(fds: Sequence[int], twins: _Twins, check: bool) -> int:
    """Let the second of TWINS lie where the first do; return how many bytes do not yet. Raises OSError."""
    (source, offset), (target, to) = (_place(fds, one) for one in (twins.first, twins.second))
    length = twins.pages * PAGE_SIZE
    there = {logical - offset: (place, size) for logical, place, size in places(source, offset, length)}
    here = {logical - to: (place, size) for logical, place, size in places(target, to, length)}
    done = sum(size for at, (place, size) in here.items() if there.get(at) == (place, size))
    if check or done == length:
        return length - done
    at = 0
    while at < length:
        count = share(source, offset + at, target, to + at, length - at)
        if not count:
            break  # they differ after all, or are of what cannot be shared
        at += count
    return max(at - done, 0)


def _place(fds: Sequence[int], place: int) -> tuple[int, int]:
    return fds[place >> _SHIFT], (place & (1 << _SHIFT) - 1) * PAGE_SIZE
