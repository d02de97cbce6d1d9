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
_CANNOT = frozenset((errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.ETXTBSY))


def copy_file(source: int, target: int) -> int:
    """Give descriptor TARGET the content of SOURCE; return the bytes that had to be copied. OSError, EOFError when SOURCE shrinks."""
    os.ftruncate(target, 0)
    try:
        fcntl.ioctl(target, FICLONE, source)
        return 0
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    done = end = 0
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
