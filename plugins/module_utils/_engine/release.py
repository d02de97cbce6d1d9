# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeing the pages of a chain while a tree is filled from them: images in memory (tmpfs) and the tree never take their room twice.

What was freed is then in the tree alone. Should the restore fail before the tree runs, it is put back from there.
"""

from __future__ import annotations

import os
from typing import List, Tuple

from .dedup import everything
from .errors import ImagesError
from .images.chain import Chain, Extent
from .images.fault import faults
from .images.manifest import manifest_path, rewrite_pages
from .images.pagemap import PAGE_SIZE
from .images.punch import Superfluous, allocated_bytes, check_punching, punch, punch_range, without
from .kernel.memory import MemoryReader

_STEP = 4 << 20
"""Bytes put back at once."""


class Release:
    """The pages of a chain on their way into a tree, as a context inside that of the tree's stubs."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._plan: List[Superfluous] = everything(chain)
        self._moved: List[Tuple[int, Extent]] = []
        self._begun = False
        self._kept = False
        self._before = 0

    def __enter__(self) -> Release:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._begun and not self._kept:
            self._put_back()

    def check(self) -> None:
        """Raise ImagesError when the pages could not be freed. Changes nothing."""
        for superfluous in self._plan:
            for name in superfluous.pages:
                check_punching(superfluous.dump, name)

    def begin(self) -> None:
        """Verify all pages, then note that they are about to go: from now on nobody takes the images for whole. Raises ImagesError."""
        self._chain.verify_pages()
        manifests = [without(superfluous) for superfluous in self._plan]
        self._before = self._allocated()
        self._begun = True
        for superfluous, manifest in zip(self._plan, manifests):
            rewrite_pages(superfluous.dump.path, manifest)

    def free(self, pid: int, extent: Extent) -> None:
        """Free the pages of EXTENT, which process PID has now. Raises ImagesError."""
        self._moved.append((pid, extent))
        punch_range(extent.path, extent.offset, extent.pages * PAGE_SIZE)

    def keep(self) -> None:
        """Put nothing back any more: the tree runs."""
        self._kept = True

    def finish(self) -> int:
        """Free what is left of the pages, such as those of shared memory; return the bytes freed in all. Raises ImagesError."""
        for superfluous in self._plan:
            punch(superfluous)
        return self._before - self._allocated()

    def _put_back(self) -> None:
        """Write what was freed into the images again, from the stubs, which have not run. Raises ImagesError."""
        for pid, extent in self._moved:
            reader, size = MemoryReader(pid), extent.pages * PAGE_SIZE
            with faults("write", extent.path), open(extent.path, "r+b", buffering=0) as file:
                for done in range(0, size, _STEP):
                    part = memoryview(bytearray(min(_STEP, size - done)))
                    reader.read_into(part, [(extent.start + done, len(part))])
                    _write(file.fileno(), part, extent.offset + done)
                os.fsync(file.fileno())
        for superfluous in self._plan:
            dump = superfluous.dump
            if dump.manifest is not None:
                rewrite_pages(dump.path, dump.manifest)
            else:
                os.unlink(manifest_path(dump.path))

    def _allocated(self) -> int:
        return sum(allocated_bytes(os.path.join(one.dump.path, name)) for one in self._plan for name in one.pages)


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        if not done:
            raise ImagesError("the images can no longer be written; free some space")
        data, offset = data[done:], offset + done
