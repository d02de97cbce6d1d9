# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory files in images made by CRIU: as root it dumps anonymous shared memory, which lies on the same filesystem, as one
(memfd image, MEMFD in the files image; criu/memfd.c of CRIU 4.2). Files of memfd_create(2) itself are not carried yet."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...images.image import ImagesDir

TYPE = "MEMFD"
_ANONYMOUS = "/dev/zero"
"""The name that the kernel gives to what mmap(2) made with MAP_SHARED | MAP_ANONYMOUS (shmem_zero_setup in mm/shmem.c)."""


class SharedObject(NamedTuple):
    """Anonymous shared memory."""

    shmid: int
    """Its pagemap is pagemap-shmem-SHMID."""
    size: int
    """In bytes."""


def anonymous_objects(images: ImagesDir) -> dict[int, SharedObject]:
    """Return the anonymous shared memory that IMAGES hold as memory files, by file id. Raises ImagesError."""
    if not images.has("memfd"):
        return {}
    inodes: dict[int, Any] = {inode.inode_id: inode for inode in images.read("memfd")}  # type: ignore[attr-defined]
    files = [file.memfd for file in images.read("files") if file.HasField("memfd")]  # type: ignore[attr-defined]
    known = [(file.id, inodes[file.inode_id]) for file in files if file.inode_id in inodes]
    return {file_id: SharedObject(inode.shmid, inode.size) for file_id, inode in known if inode.name == _ANONYMOUS}
