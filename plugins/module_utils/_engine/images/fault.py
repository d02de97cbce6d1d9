# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The sentences for operating system errors met at image files."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from collections.abc import Iterator

from ..errors import ImagesError

_REMEDIES = {
    errno.ENOSPC: "free some space, or choose an images_dir on another filesystem",
    errno.EDQUOT: "raise the quota, or choose an images_dir on another filesystem",
    errno.EROFS: "choose an images_dir on a filesystem that is mounted for writing",
    errno.EACCES: "check its owner and mode, or run as root",
    errno.EPERM: "check its owner and mode, or run as root",
    errno.ENOENT: "check the path; the dump may be incomplete, or not a dump at all",
    errno.ENOTDIR: "check the path: a part of it is not a directory",
    errno.ELOOP: "replace the symbolic link by what it stands for",
    errno.EIO: "check the disk and take the dump again",
}


def fault(doing: str, path: str, error: OSError) -> ImagesError:
    """Return the ImagesError for ERROR, met while DOING something ("read", "write") to PATH."""
    remedy = _REMEDIES.get(error.errno or 0, "check the filesystem and the path")
    return ImagesError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}")


@contextmanager
def faults(doing: str, path: str) -> Iterator[None]:
    """Turn an OSError of the block into the ImagesError that names PATH and the remedy."""
    try:
        yield
    except OSError as error:
        raise fault(doing, path, error) from error
