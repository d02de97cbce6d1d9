# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copying a whole file: by sharing its blocks where the filesystem can (FICLONE, ioctl_ficlone(2)), else its data without its holes."""

from __future__ import annotations

import errno
import fcntl
import os

from .copy import copy_range

FICLONE = 0x40049409  # include/uapi/linux/fs.h
_STEP = 1 << 18
"""Bytes that are compared at once."""
_CANNOT = frozenset((errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.ETXTBSY))


def share_blocks(source: int, target: int) -> bool:
    """Give descriptor TARGET the content of SOURCE without copying; tell whether the filesystem can do that. Raises OSError."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    os.ftruncate(target, os.fstat(source).st_size)
    return True


def copy_file(source: int, target: int) -> int:
    """Give descriptor TARGET the content of SOURCE; return the bytes that had to be copied. OSError, EOFError when SOURCE shrinks."""
    os.ftruncate(target, 0)
    if share_blocks(source, target):
        return 0
    return extend(source, target, 0)


def extend(source: int, target: int, begin: int) -> int:
    """Give TARGET what SOURCE has from offset BEGIN on, and its size; return the bytes that were copied. OSError, EOFError as above."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    done, end = 0, begin
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            raise
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        if start >= end:
            break
        copy_range(source, start, target, start, end - start)
        done += end - start
    return done


def renew(source: int, target: int) -> int:
    """Give TARGET, an older copy of SOURCE, its content of now; return the bytes that had to be written. Raises OSError, EOFError."""
    common = min(os.fstat(source).st_size, os.fstat(target).st_size)
    done = 0
    for offset in range(0, common, _STEP):
        length = min(_STEP, common - offset)
        if not _alike(source, target, offset, length):
            copy_range(source, offset, target, offset, length)
            done += length
    os.ftruncate(target, common)
    return done + extend(source, target, common)


def begin_alike(one: int, other: int, length: int) -> bool:
    """Tell whether the files ONE and OTHER have the same first LENGTH bytes. Raises OSError."""
    return all(_alike(one, other, offset, min(_STEP, length - offset)) for offset in range(0, length, _STEP))


def _alike(one: int, other: int, offset: int, length: int) -> bool:
    return os.pread(one, length, offset) == os.pread(other, length, offset)
