# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the mm image of a task says of shared memory: which objects its mappings show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# CRIU's status bits of a vma_entry (criu/include/image.h)
VMA_ANON_SHARED = 1 << 8
VMA_AREA_SYSVIPC = 1 << 10


def object_sizes(tasks: Iterable[Sequence[Any]]) -> dict[int, int]:
    """Return the bytes of each object of anonymous shared memory that the vmas of TASKS, of their mm images, map as such."""
    sizes: dict[int, int] = {}
    for vmas in tasks:
        for vma in vmas:
            if vma.status & VMA_ANON_SHARED and not vma.status & VMA_AREA_SYSVIPC:
                sizes[vma.shmid] = max(sizes.get(vma.shmid, 0), vma.pgoff + vma.end - vma.start)
    return sizes
