# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A walk through one pagemap of one dump of a chain, in ascending order and read as it goes."""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence

from ..errors import ChainError
from .cold import is_cold
from .fault import fault
from .image import ImagesDir
from .magic import SUFFIX
from .manifest import Manifest, PagesRecord
from .pagemap import PAGE_SIZE, Run, iterate_runs, pages_id, pages_path


class Cursor:
    """Tells where pages of one pagemap are, asked for by ascending addresses."""

    def __init__(self, images_dir: str, manifest: Manifest | None, name: str) -> None:
        self.images_dir = images_dir
        self.name = name
        self.pages_path = ""
        """The pages file; known after the first look."""
        self._manifest = manifest
        self._steps: Generator[tuple[Run, int], None, None] | None = None
        self._here: tuple[Run, int] | None = None
        self._size = 0
        self._gone: Sequence[tuple[int, int]] = ()

    def steps(self) -> Generator[tuple[Run, int], None, None]:
        """Yield each run with the number, counted from 0, that its first page has in the pages file.

        For a run in the parent that number means nothing. Raises ImagesError.
        """
        self._open()
        index = 0
        for run in iterate_runs(ImagesDir(self.images_dir), self.name):
            if not run.in_parent:
                self._check_size(run, index)
            yield run, index
            index += 0 if run.in_parent else run.pages

    def at(self, address: int) -> tuple[Run, int]:
        """Return the run that holds ADDRESS, and where its first page is as in `steps`. Raises ImagesError when there is none."""
        if self._steps is None:
            self._steps = self.steps()
            self._here = next(self._steps, None)
        while self._here is not None and self._here[0].end <= address:
            self._here = next(self._steps, None)
        if self._here is None or self._here[0].start > address:
            raise ChainError(
                f"{self.images_dir} lacks the page at {address:x} of {self.name} that the dump made on top of it counts on; "
                "use another copy of the chain",
                os.path.join(self.images_dir, self.name + SUFFIX),
            )
        return self._here

    def close(self) -> None:
        """Close the image; a walk that was not ended holds it open."""
        if self._steps is not None:
            self._steps.close()

    def check_kept(self, address: int, index: int, pages: int) -> None:
        """Raise ChainError when one of PAGES from number INDEX of the pages file, the first being ADDRESS's, was freed by dedup."""
        position = bisect_right(self._gone, (index + pages - 1, index + pages))
        if position and self._gone[position - 1][1] > index:
            raise ChainError(
                f"{self.pages_path} no longer holds the page at {address:x} of {self.name}, or one after it: dedup freed it, "
                "since a newer dump holds it; restore that newer dump",
                self.pages_path,
                index * PAGE_SIZE,
            )

    def _open(self) -> None:
        images = ImagesDir(self.images_dir)
        if not images.has(self.name):
            path = images.file(self.name)
            raise ChainError(f"{path} is missing, though it is needed; use another copy of the chain", path)
        self.pages_path = pages_path(self.images_dir, pages_id(images, self.name))
        try:
            self._size = os.stat(self.pages_path).st_size
        except FileNotFoundError:
            self._size = sys.maxsize if is_cold(self.pages_path) else 0  # CRIU makes none for a pagemap without pages of its own
        except OSError as error:
            raise fault("read", self.pages_path, error) from error
        self._gone = self._record().gone

    def _record(self) -> PagesRecord:
        records = self._manifest.pages if self._manifest else {}
        return records.get(os.path.basename(self.pages_path), PagesRecord(self._size))

    def _check_size(self, run: Run, index: int) -> None:
        needed = (index + run.pages) * PAGE_SIZE
        if needed > self._size:
            raise ChainError(
                f"{self.pages_path} is truncated at offset {self._size}: the pages up to {run.end:x} of {self.name} take {needed} bytes; "
                "use another copy of the dump",
                self.pages_path,
                self._size,
            )


def locate(cursors: Sequence[Cursor], level: int, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield address, number of pages, level, and number in the pages file of the pages of START to END, as LEVEL and its parents have them.

    CURSORS are those of the dumps of a chain, newest first. Raises ImagesError where a page is in none of them.
    """
    left = [(level, start, end)]
    while left:
        level, start, end = left.pop()
        if level == len(cursors):
            cursor = cursors[-1]
            raise ChainError(f"{cursor.images_dir} counts on a parent for the page at {start:x} of {cursor.name} and has none")
        run, first = cursors[level].at(start)
        stop = min(end, run.end)
        if stop < end:
            left.append((level, stop, end))
        if run.in_parent:
            left.append((level + 1, start, stop))
        else:
            index, pages = first + (start - run.start) // PAGE_SIZE, (stop - start) // PAGE_SIZE
            cursors[level].check_kept(start, index, pages)
            yield start, pages, level, index
