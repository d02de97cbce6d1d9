# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copying parts of files inside the kernel: on filesystems that can (btrfs, xfs), whole blocks are shared instead of copied."""

from __future__ import annotations

import errno
import os

_BUFFER = 1 << 20
_CANNOT = frozenset((errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF))
"""What copy_file_range(2) answers where it cannot: between filesystems, before Linux 5.19, on special ones."""


def copy_range(source: int, offset: int, target: int, to: int, length: int) -> None:
    """Copy LENGTH bytes from OFFSET of descriptor SOURCE to offset TO of TARGET. Raises OSError, and EOFError when SOURCE is too short."""
    done = 0
    while done < length:
        try:
            count = os.copy_file_range(source, target, length - done, offset + done, to + done)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            count = 0
        if not count:
            _copy_through_us(source, offset + done, target, to + done, length - done)
            return
        done += count


def _copy_through_us(source: int, offset: int, target: int, to: int, length: int) -> None:
    buffer = memoryview(bytearray(min(_BUFFER, length)))
    done = 0
    while done < length:
        count = os.preadv(source, [buffer[: length - done]], offset + done)
        if not count:
            raise EOFError(offset + done)
        written = 0
        while written < count:
            written += os.pwrite(target, buffer[written:count], to + done + written)
        done += count
