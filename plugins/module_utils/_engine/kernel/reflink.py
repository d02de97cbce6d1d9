# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks that files share: asking where they lie (FIEMAP), and letting equal ones be one (FIDEDUPERANGE).

The kernel compares the bytes itself while both files stand still, and shares them only if they are equal, so that no file ever reads
otherwise. btrfs and xfs (made with reflink=1, its default) can.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator

FS_IOC_FIEMAP = 0xC020660B  # include/uapi/linux/fs.h
FIDEDUPERANGE = 0xC0189436
FILE_DEDUPE_RANGE_SAME = 0
FIEMAP_EXTENT_LAST = 0x1  # include/uapi/linux/fiemap.h
FIEMAP_EXTENT_UNKNOWN, FIEMAP_EXTENT_DELALLOC, FIEMAP_EXTENT_DATA_INLINE = 0x2, 0x4, 0x200
FIEMAP_FLAG_SYNC = 0x1
_UNPLACED = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_DATA_INLINE
_RANGE = struct.Struct("=QQHHIqQQiI")
"""struct file_dedupe_range with one file_dedupe_range_info."""
_HEAD, _EXTENT = struct.Struct("=QQIIII"), struct.Struct("=QQQQQIIII")
_EXTENTS = 128
_CANNOT = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV, errno.ENOSYS))


def share(source: int, offset: int, target: int, to: int, length: int) -> int:
    """Let LENGTH bytes from TO of descriptor TARGET lie where those from OFFSET of SOURCE do, if they are equal.

    Return how many are shared now: fewer where they differ, or where the filesystem takes less at once; 0 if it cannot. Raises OSError.
    """
    request = bytearray(_RANGE.pack(offset, length, 1, 0, 0, target, to, 0, 0, 0))
    try:
        fcntl.ioctl(source, FIDEDUPERANGE, request)
    except OSError as error:
        if error.errno in _CANNOT:
            return 0
        raise
    done, status = _RANGE.unpack(request)[7:9]
    if status < 0 and -status not in _CANNOT:
        raise OSError(-status, "FIDEDUPERANGE")
    return int(done) if status == FILE_DEDUPE_RANGE_SAME else 0


def can_share(source: int, target: int) -> bool:
    """Return whether the filesystem of both descriptors can do that at all, and tells where its files lie: overlayfs answers for others."""
    request = bytearray(_RANGE.pack(0, 0, 1, 0, 0, target, 0, 0, 0, 0))
    try:
        fcntl.ioctl(source, FIDEDUPERANGE, request)
        fcntl.ioctl(source, FS_IOC_FIEMAP, bytearray(_HEAD.pack(0, 1, 0, 0, 0, 0)))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return int(_RANGE.unpack(request)[8]) >= 0


def places(fd: int, start: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Yield of the LENGTH bytes from START of FD where they are: offset in the file, on the device, and length. Raises OSError.

    What has no place that is known, such as what a filesystem keeps with its names, is left out.
    """
    end = start + length
    while start < end:
        request = bytearray(_HEAD.pack(start, end - start, FIEMAP_FLAG_SYNC, 0, _EXTENTS, 0) + bytes(_EXTENTS * _EXTENT.size))
        fcntl.ioctl(fd, FS_IOC_FIEMAP, request)
        mapped = _HEAD.unpack_from(request)[3]
        if not mapped:
            return
        for number in range(mapped):
            logical, physical, size, _one, _two, flags, *_rest = _EXTENT.unpack_from(request, _HEAD.size + number * _EXTENT.size)
            low, high = max(logical, start), min(logical + size, end)
            if low < high and not flags & _UNPLACED:
                yield low, physical + low - logical, high - low
            if flags & FIEMAP_EXTENT_LAST:
                return
        start = logical + size
