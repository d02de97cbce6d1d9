# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of memory that is a file hold data."""

from __future__ import annotations

import os
from typing import Iterator, Tuple

from ...images.pagemap import PAGE_SIZE, Run
from ...images.punch import data_ranges
from ...kernel import hugetlb

_CHUNK = 1 << 21
"""Bytes of an object of huge pages that are read at once."""


def is_huge(local: int) -> bool:
    """Tell whether the object that our descriptor LOCAL has open is made of huge pages. Raises OSError."""
    status = os.fstat(local)
    return status.st_blksize > PAGE_SIZE and status.st_dev in hugetlb.devices()


def filled_runs(local: int) -> Tuple[Run, ...]:
    """Return the runs of pages of LOCAL that hold data. Raises OSError."""
    ranges = _filled_huge(local) if is_huge(local) else _filled(local)
    return tuple(Run(start, (end - start) // PAGE_SIZE, False) for start, end in ranges)


def _filled(fd: int) -> Iterator[Tuple[int, int]]:
    """Yield the ranges of FD that hold data, to the end of their last page."""
    for start, end in data_ranges(fd):
        yield start, -(-end // PAGE_SIZE) * PAGE_SIZE


def _filled_huge(fd: int) -> Iterator[Tuple[int, int]]:
    """Yield the ranges of FD that are not zeros: hugetlbfs does not tell its holes."""
    at, zeros = 0, bytes(_CHUNK)
    while content := os.pread(fd, _CHUNK, at):
        if content != zeros[: len(content)]:
            yield at, at + len(content)
        at += len(content)
