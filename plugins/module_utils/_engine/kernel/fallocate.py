# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Giving parts of a file back to its filesystem (fallocate(2)), many at once."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_holes(fd: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Free RANGES of bytes of FD; they read as zeros then. Raises OSError, EOPNOTSUPP where the filesystem cannot."""
    for start, end in ranges:
        if _fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start):
            number = ctypes.get_errno()
            raise OSError(number, f"fallocate: {os.strerror(number)}")
