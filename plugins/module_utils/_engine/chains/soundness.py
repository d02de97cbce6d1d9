# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a dump makes sense: its images can be read, those that belong together are all there, and so is every page.

What is checked by checksum is checked elsewhere (images/verification.py); this holds for dumps by CRIU too, which have none.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from ..errors import ChainError, ImagesError
from ..images.chain import Chain, Dump, as_chain_error
from ..images.cursor import Cursor
from ..images.image import ImagesDir
from ..images.manifest import DUMP
from ..images.pagemap import Run
from ..images.ranges import Range, merged
from ..images.shared_objects import object_sizes

TASK_DEAD = 2
"""task_core_entry.task_state of a zombie (compel's task-state.h)."""


def check_tasks(dump: Dump) -> None:
    """Raise ChainError when an image of a task is missing or empty that a restore of DUMP needs. Reads what is small only."""
    for error in task_faults(dump):
        raise error


def task_faults(dump: Dump) -> Iterator[ChainError]:
    """Yield what is missing of the images of the tasks in DUMP."""
    images = dump.images
    if dump.kind != DUMP:
        return
    try:
        tasks = images.read("pstree")
        if not tasks:
            yield _lacking(images, "pstree")
    except ImagesError as error:
        yield as_chain_error(error)
        return
    for task in tasks:
        try:
            yield from _of_task(images, task)
        except ImagesError as error:
            yield as_chain_error(error)


def _of_task(images: ImagesDir, task: Any) -> Iterator[ChainError]:
    core = _first(images, f"core-{task.pid}")
    if core.HasField("tc") and core.tc.task_state == TASK_DEAD:
        return
    for tid in task.threads:
        _first(images, f"core-{tid}")
    if not task.threads:
        yield _lacking(images, "pstree")
    _first(images, f"fs-{task.pid}")
    if not images.has(f"pagemap-{task.pid}"):
        yield _lacking(images, f"pagemap-{task.pid}")
    for name in ("files", f"fdinfo-{_first(images, f'ids-{task.pid}').files_id}"):
        if not images.has(name):
            yield _lacking(images, name)
    for number in object_sizes([_first(images, f"mm-{task.pid}").vmas]):
        if not images.has(f"pagemap-shmem-{number}"):
            yield _lacking(images, f"pagemap-shmem-{number}")


def _first(images: ImagesDir, name: str) -> Any:
    """Return the first message of image NAME. Raises ImagesError when there is none."""
    messages = images.read(name)
    if not messages:
        raise _lacking(images, name)
    return messages[0]


def _lacking(images: ImagesDir, name: str) -> ChainError:
    path = images.file(name)
    what = "is empty" if images.has(name) else "is missing, though its tree needs it"
    return ChainError(f"{path} {what}; use another copy of the dump", path)


def image_faults(dump: Dump) -> Iterator[ChainError]:
    """Yield the images of DUMP that cannot be read to their end; the pagemaps aside."""
    for name in dump.images.names():
        if not name.startswith("pagemap-"):
            try:
                for _entry in dump.images.iterate(name):
                    pass
            except ImagesError as error:
                yield as_chain_error(error)


def pagemap_faults(dump: Dump, parent: Dump | None) -> Iterator[ChainError]:
    """Yield the pagemaps of DUMP that are not in order: pages that no mapping has, or that neither it nor its PARENT tells of."""
    for name in dump.pagemaps():
        try:
            mappings = _mappings(dump, name)
            for run in _runs(dump, parent, name):
                _check_mapped(dump, name, run, mappings)
        except ImagesError as error:
            yield as_chain_error(error)


def _runs(dump: Dump, parent: Dump | None, name: str) -> Iterator[Run]:
    """Yield the runs of pagemap NAME, each found whole in DUMP or looked up in the pagemap of PARENT. Raises ImagesError."""
    own = Cursor(dump.path, dump.manifest, name)
    below = Cursor(parent.path, None, name) if parent else None  # pages that dedup freed are none of its faults
    try:
        for run, _index in own.steps():
            address = run.start
            while below and run.in_parent and address < run.end:
                address = below.at(address)[0].end
            yield run
    finally:
        if below:
            below.close()


def _mappings(dump: Dump, name: str) -> tuple[Range, ...] | None:
    """Return the address ranges that pagemap NAME may tell of, None where DUMP does not say."""
    mm = f"mm-{name.rpartition('-')[2]}"
    if name.startswith("pagemap-shmem-") or not dump.images.has(mm):
        return None
    return tuple(merged(sorted((vma.start, vma.end) for vma in _first(dump.images, mm).vmas)))


def _check_mapped(dump: Dump, name: str, run: Run, mappings: tuple[Range, ...] | None) -> None:
    if mappings is None:
        return
    below = bisect_right(mappings, (run.start, sys.maxsize)) - 1
    if below < 0 or run.end > mappings[below][1]:
        path = dump.images.file(name)
        raise ChainError(f"{path} has pages at {run.start:x}-{run.end:x}, where its task maps nothing; use another copy of the dump", path)


def chain_faults(chain: Chain) -> Iterator[ChainError]:
    """Yield the pagemaps of the newest dump that count on a page which is in none of the dumps of CHAIN."""
    for name in chain.top.pagemaps():
        try:
            for _extent in chain.iterate_extents(name):
                pass
        except ChainError as error:
            yield error
