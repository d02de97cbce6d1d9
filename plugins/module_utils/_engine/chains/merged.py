# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump made anew: with its pages in other places, on top of its parent, an older one or none; all else is linked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

from ..errors import ChainError
from ..images.chain import Chain, Extent
from ..images.directory import INVENTORY, PAGES, PARENT, DumpDirectory, dump_files
from ..images.fault import faults
from ..images.image import create
from ..images.kept import DIRECTORY as KEPT
from ..images.magic import SUFFIX
from ..images.manifest import CRIU, FILE_NAME, PARTIAL, Manifest, PagesRecord
from ..images.pagemap import PAGE_SIZE, Run, iterate_runs, pages_id, pages_path, write_runs
from ..kernel.copy import copy_range


Plan = Callable[[], Iterator[Extent]]
"""Where all pages of one pagemap are to be taken from, by ascending address; those without a path are left to the parent."""


def merging(chain: Chain, onto: int) -> dict[str, Plan]:
    """Return the plans by which the newest dump of CHAIN counts on that at level ONTO, or on none, by name of the pagemap."""
    above = {dump.path for dump in chain.dumps[:onto]}

    def taken(name: str) -> Iterator[Extent]:
        for extent in chain.iterate_extents(name):
            yield extent if os.path.dirname(extent.path) in above else extent._replace(path="")

    names = [name for name in chain.top.pagemaps() if any(run.in_parent for run in iterate_runs(chain.top.images, name))]
    return {name: partial(taken, name) for name in names}


def write_anew(chain: Chain, onto: int, plans: Mapping[str, Plan], path: str) -> None:
    """Make the empty directory PATH the newest dump of CHAIN, with its id, on top of that at level ONTO, or of none.

    Its pagemaps are as PLANS have them, the others as they are. The pages must have been verified: they get new checksums.
    Raises ImagesError, ChainError.
    """
    top = chain.top
    own = top.manifest or Manifest(id="", kind=top.kind, made_by=CRIU, page_size=PAGE_SIZE, created=_written(top.path))
    records: dict[str, PagesRecord] = {}
    parent_id = ""
    with DumpDirectory(path) as directory:
        if own.kept.files:
            with faults("create", path):
                os.mkdir(os.path.join(path, KEPT), 0o700)
        if onto < len(chain.dumps):
            directory.link_parent(os.path.relpath(os.path.realpath(chain.dumps[onto].path), path))
            parent_id = chain.dumps[onto].id
        for name in top.pagemaps():
            number = pages_id(top.images, name)
            file_name = os.path.basename(pages_path(path, number))
            if name in plans:
                with _Pages(pages_path(path, number)) as pages:
                    write_runs(directory.images, name, number, _joined(pages.take(plans[name]())))
                continue
            _link(top.path, path, name + SUFFIX)
            if os.path.exists(os.path.join(top.path, file_name)):
                _link(top.path, path, file_name)
            if file_name in own.pages and own.pages[file_name].stretches:
                records[file_name] = own.pages[file_name]
        for name in dump_files(top.path):
            anew = name in (INVENTORY, FILE_NAME, PARENT) or name.startswith((PAGES, "pagemap-")) or name.endswith(PARTIAL)
            if not anew:
                _link(top.path, path, name)
        directory.commit(top.inventory, replace(own, parent_id=parent_id), records)


def pages_between(chain: Chain, onto: int) -> int:
    """Return how many pages of the newest dump of CHAIN lie in its parents above level ONTO. Raises ChainError."""
    between = {dump.path for dump in chain.dumps[1:onto]}
    extents = (extent for name in chain.top.pagemaps() for extent in chain.iterate_extents(name))
    return sum(extent.pages for extent in extents if os.path.dirname(extent.path) in between)


class _Pages:
    """A pages file being filled. A context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fds: dict[str, int] = {}

    def __enter__(self) -> _Pages:
        with faults("write", self._path), create(self._path):
            pass
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def take(self, extents: Iterator[Extent]) -> Iterator[Run]:
        """Yield the run for each of EXTENTS, once its pages are copied here; those without a path are left to the parent."""
        target, to = self._open(self._path, os.O_WRONLY), 0
        for extent in extents:
            if extent.path:
                self._copy(extent.path, extent.offset, target, to, extent.pages * PAGE_SIZE)
                to += extent.pages * PAGE_SIZE
            yield Run(extent.start, extent.pages, not extent.path)

    def _copy(self, path: str, offset: int, target: int, to: int, size: int) -> None:
        source = self._open(path, os.O_RDONLY)
        try:
            with faults("write", self._path):
                copy_range(source, offset, target, to, size)
        except EOFError as error:
            raise ChainError(f"{path} is truncated at offset {error}; use another copy of the dump", path) from error

    def _open(self, path: str, mode: int) -> int:
        if path not in self._fds:
            with faults("open", path):
                self._fds[path] = os.open(path, mode | os.O_CLOEXEC)
        return self._fds[path]


def _joined(runs: Iterator[Run]) -> Iterator[Run]:
    """Yield RUNS, in ascending order, with those joined that touch and lie in the same place."""
    last: Run | None = None
    for run in runs:
        if last is not None and last.end == run.start and last.in_parent == run.in_parent:
            last = Run(last.start, last.pages + run.pages, run.in_parent)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _link(source: str, target: str, name: str) -> None:
    path = os.path.join(target, name)
    with faults("link", path):
        os.link(os.path.join(source, name), path, follow_symlinks=False)


def _written(path: str) -> str:
    """Return when the dump in PATH was committed, for one that does not say so itself."""
    with faults("read", path):
        written = os.stat(os.path.join(path, INVENTORY)).st_mtime
    return datetime.fromtimestamp(written, timezone.utc).isoformat(timespec="seconds")
