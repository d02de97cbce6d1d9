# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Changing the place of two files, or directories, in one step (renameat2(2), Linux 3.15): both names are there at every moment."""

from __future__ import annotations

import errno
import os

from ..errors import ImagesError
from .syscall import syscall

AT_FDCWD = -100
RENAME_EXCHANGE = 1 << 1  # include/uapi/linux/fs.h


def exchange(one: str, other: str) -> None:
    """Let the paths ONE and OTHER change places. Raises ImagesError where the filesystem cannot do that, else OSError."""
    try:
        syscall("renameat2", AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise ImagesError(
                f"the filesystem of {one} cannot let two names change places (renameat2); ext4, xfs, btrfs and tmpfs can"
            ) from error
        raise
