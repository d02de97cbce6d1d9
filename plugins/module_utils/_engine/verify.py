# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `verify`: read dumps and their chains whole, and tell all that is wrong with them, not only what comes first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from .chains import soundness
from .chains.listing import directories
from .chains.lock import reading
from .errors import ChainError, ImagesError
from .images.chain import Chain, Dump, leads_back, open_dump, parent_of, strange_files
from .images.cold import ZST, is_cold
from .images.directory import PAGES, dump_files, parent_link
from .images.kept_verification import kept_faults
from .images.manifest import DUMP, PARTIAL
from .images.verification import cold_faults, image_faults, pages_faults
from .progress import Progress
from .results import Fault, VerifiedDump, VerifyResult


def verify(images_dir: str, progress: Progress | None = None) -> VerifyResult:
    """Check the dump in IMAGES_DIR and all its parents; where it holds no dump but directories of dumps, all of these.

    What is wrong is told in the answer, not raised. Raises ImagesError when there is no dump at all. Changes nothing.
    """
    started = time.monotonic()
    tops = [images_dir] if dump_files(images_dir) else _tops(images_dir)
    if not tops:
        raise ImagesError(f"{images_dir} holds no dump; give the directory of one, or one with directories of dumps")
    faults: list[Fault] = []
    dumps: list[VerifiedDump] = []
    size = 0
    seen: set[str] = set()
    for top in tops:
        with reading(top):
            for dump, errors in _verified(top, seen, progress or Progress()):
                told = {(error.path, error.offset, str(error)): error for error in errors}
                faults += [Fault(error.path or dump.path, error.offset, str(error)) for error in told.values()]
                dumps.append(VerifiedDump(dump.path, dump.id, not told, bool(dump.manifest and dump.manifest.images)))
                size += sum(os.path.getsize(path) for path in _pages_of(dump) if os.path.isfile(path))
    wall = int((time.monotonic() - started) * 1e6)
    return VerifyResult(images_dir, not faults, tuple(faults), tuple(dumps), size, wall)


def _tops(root: str) -> list[str]:
    """Return those dumps in ROOT that no other there is made on top of."""
    paths = [path for path in directories(root) if dump_files(path)]
    parents = {parent_link(path) for path in paths}
    return [path for path in paths if path not in parents] or paths


def _verified(top: str, seen: set[str], progress: Progress) -> Iterator[tuple[Dump, list[ChainError]]]:
    """Yield the dump in TOP and its parents, each with what is wrong with it; those that were SEEN are not looked at again."""
    levels = list(_levels(top))
    for level, (dump, errors) in enumerate(levels):
        if not level and not any(found for _dump, found in levels):
            errors += soundness.chain_faults(Chain(tuple(dump for dump, _errors in levels)))
        if os.path.realpath(dump.path) not in seen:
            seen.add(os.path.realpath(dump.path))
            parents = [dump for dump, _errors in levels[level + 1 :][:1] if os.path.isdir(dump.path)]
            yield dump, errors + list(_faults(dump, parents[0] if parents else None, progress))


def _levels(top: str) -> Iterator[tuple[Dump, list[ChainError]]]:
    """Yield the dump in TOP and its parents, as far as there are any, with what is wrong with their inventories, manifests and links."""
    child: Dump | None = None
    seen: set[str] = set()
    here: str | None = top
    while here is not None:
        errors: list[ChainError] = []
        try:
            dump = open_dump(here, child)
        except ChainError as error:
            errors.append(error)
            dump = Dump(here, DUMP, False, None)  # its other files can be looked at all the same
        seen.add(os.path.realpath(here))
        try:
            below = parent_of(dump)
            if below in seen:
                raise leads_back(dump, str(below))
        except ChainError as error:
            errors.append(error)
            below = None
        yield dump, errors
        child = dump if not errors else None
        here = below


def _faults(dump: Dump, parent: Dump | None, progress: Progress) -> Iterator[ChainError]:
    """Yield what is wrong with the files of DUMP, on top of PARENT."""
    if not os.path.isdir(dump.path) or strange_files(dump.path):
        return  # told already
    yield from image_faults(dump.path, dump.manifest)
    yield from kept_faults(dump.path, dump.manifest)
    yield from soundness.image_faults(dump)
    if dump.finished:
        yield from soundness.task_faults(dump)
    yield from soundness.pagemap_faults(dump, parent)
    paths = _pages_of(dump)
    progress.begin(sum(os.path.getsize(path) for path in paths if os.path.isfile(path)), dump.path)
    for path in paths:
        yield from cold_faults(path, dump.manifest) if is_cold(path) else pages_faults(path, dump.manifest, count=progress.add)


def _pages_of(dump: Dump) -> list[str]:
    """Return the paths of the pages files that DUMP has or, by its manifest, had."""
    known = {os.path.join(dump.path, name) for name in dump.manifest.pages} if dump.manifest else set()
    names = dump_files(dump.path) if os.path.isdir(dump.path) else []
    found = {os.path.join(dump.path, name.removesuffix(ZST)) for name in names if name.startswith(PAGES) and not name.endswith(PARTIAL)}
    return sorted(known | found)
