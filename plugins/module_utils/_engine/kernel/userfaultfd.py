# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""userfaultfd(2), for one use: asynchronous write-protection that tells written pages (Linux 6.7). No policy."""

from __future__ import annotations

import fcntl
import struct

# include/uapi/linux/userfaultfd.h
UFFD_API = 0xAA
UFFD_USER_MODE_ONLY = 1
UFFD_FEATURE_WP_UNPOPULATED = 1 << 13
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFDIO_REGISTER_MODE_WP = 1 << 1
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00

WANTED = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED
"""WP_ASYNC: the kernel resolves the fault by itself, and nobody waits. PAGEMAP_SCAN wants WP_UNPOPULATED beside it."""


def handshake(uffd: int) -> None:
    """Agree on the features with a new userfaultfd, which may belong to another process. Raises OSError: EINVAL before Linux 6.7."""
    fcntl.ioctl(uffd, UFFDIO_API, bytearray(struct.pack("<3Q", UFFD_API, WANTED, 0)))


def register(uffd: int, start: int, end: int) -> None:
    """Register the mappings from START to END, of the process that UFFD was made in, for write-protection.

    Raises OSError: EBUSY when another userfaultfd has one of them, EINVAL for a kind of memory that cannot be protected.
    """
    fcntl.ioctl(uffd, UFFDIO_REGISTER, bytearray(struct.pack("<4Q", start, end - start, UFFDIO_REGISTER_MODE_WP, 0)))
