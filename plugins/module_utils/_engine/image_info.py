# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `image_info`: what a dump holds, and what its chain looks like, read without checking any page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ChainError, ImagesError
from .images.chain import Chain, Dump, open_chain
from .images.directory import dump_files, is_dump
from .images.image import ImagesDir
from .images.manifest import CRIU, Manifest
from .images.pagemap import iterate_runs
from .images.punch import allocated_bytes


@dataclass(frozen=True)
class TaskInfo:
    """One task of the process tree."""

    pid: int
    ppid: int
    comm: str
    threads: tuple[int, ...]
    """Thread ids, the task's own first."""


@dataclass(frozen=True)
class LinkInfo:
    """One dump of the chain."""

    path: str
    id: str
    """Empty for a dump made by CRIU."""
    kind: str
    """dump or pre-dump."""
    created: str
    """UTC, ISO 8601."""
    pages_present: int
    pages_in_parent: int
    pages_written: int | None
    """When it was taken; None for a dump that does not tell, as those of CRIU."""
    frozen_time: int | None
    """Microseconds that the tree stood still for it; None for one that does not tell."""
    bytes_apparent: int
    """Sum of the sizes of its files."""
    bytes_on_disk: int
    """What they take (st_blocks)."""
    restorable: bool
    why_not: str
    """Empty when it can be restored."""


@dataclass(frozen=True)
class ImageInfo:
    """What is known of a dump without restoring it."""

    images_dir: str
    is_dump: bool
    why_not: str
    """What is wrong with the dump or one of its parents; empty when nothing is."""
    made_by: str
    """stillframe or criu; empty for what is no dump."""
    id: str
    parent_id: str
    parent: str
    """Directory of the parent dump, empty for a full dump."""
    kind: str
    chain: tuple[LinkInfo, ...]
    """Newest first."""
    tasks: tuple[TaskInfo, ...]
    files: int
    """Open files that the tree holds, each once."""
    timings: Mapping[str, int]
    """Microseconds."""
    figures: Mapping[str, int]
    """Pages."""
    host: str
    kernel: str
    tracker: str
    tracking: str


def image_info(images_dir: str) -> ImageInfo:
    """Return what the dump in IMAGES_DIR holds. What is wrong with it is told in `why_not`, not raised.

    Raises ImagesError when IMAGES_DIR is no directory that can be read.
    """
    dump_files(images_dir)
    try:
        chain: Chain | None = open_chain(images_dir, verify=False)
        why_not = ""
    except ChainError as error:
        chain, why_not = None, str(error)
    content = _Content((), (), 0, {}, {})
    try:
        content = _content(images_dir, chain)
    except ImagesError as error:
        why_not = why_not or str(error)
    top = chain.top if chain else None
    manifest = (top.manifest if top else None) or Manifest(id="", made_by=CRIU if top else "")
    return ImageInfo(
        images_dir=images_dir,
        is_dump=is_dump(images_dir),
        why_not=why_not,
        made_by=manifest.made_by,
        id=manifest.id,
        parent_id=manifest.parent_id,
        parent=chain.dumps[1].path if chain and len(chain.dumps) > 1 else "",
        kind=top.kind if top else "",
        chain=content.links,
        tasks=content.tasks,
        files=content.files,
        timings={**content.timings, **manifest.timings},
        figures={**content.figures, **manifest.figures},
        host=manifest.host,
        kernel=manifest.kernel,
        tracker=manifest.tracker,
        tracking=manifest.tracking,
    )


@dataclass(frozen=True)
class _Content:
    """What the images themselves tell."""

    links: tuple[LinkInfo, ...]
    tasks: tuple[TaskInfo, ...]
    files: int
    timings: Mapping[str, int]
    figures: Mapping[str, int]


def _content(images_dir: str, chain: Chain | None) -> _Content:
    images = ImagesDir(images_dir)
    links = tuple(_link(chain, level) for level in range(len(chain.dumps))) if chain else ()
    timings, figures = _stats(images)
    return _Content(links, _tasks(images), _files(images), timings, figures)


def _link(chain: Chain, level: int) -> LinkInfo:
    dump = chain.dumps[level]
    paths = [os.path.join(dump.path, name) for name in dump_files(dump.path)]
    present, in_parent = _pages(dump)
    why_not = chain.below(level).obstacle()
    timings, figures = (dump.manifest.timings, dump.manifest.figures) if dump.manifest else _stats(dump.images)
    return LinkInfo(
        path=dump.path,
        id=dump.id,
        kind=dump.kind,
        created=dump.manifest.created if dump.manifest else "",
        pages_present=present,
        pages_in_parent=in_parent,
        pages_written=figures.get("pages_written"),
        frozen_time=timings.get("frozen_time"),
        bytes_apparent=sum(os.path.getsize(path) for path in paths if not os.path.islink(path)),
        bytes_on_disk=sum(allocated_bytes(path) for path in paths if not os.path.islink(path)),
        restorable=not why_not,
        why_not=why_not,
    )


def _pages(dump: Dump) -> tuple[int, int]:
    present = in_parent = 0
    for name in dump.pagemaps():
        for run in iterate_runs(dump.images, name):
            if run.in_parent:
                in_parent += run.pages
            else:
                present += run.pages
    return present, in_parent


def _tasks(images: ImagesDir) -> tuple[TaskInfo, ...]:
    if not images.has("pstree"):  # a pre-dump has none
        return ()
    return tuple(TaskInfo(task.pid, task.ppid, _comm(images, task.pid), tuple(task.threads)) for task in _messages(images, "pstree"))


def _messages(images: ImagesDir, name: str) -> Iterator[Any]:
    return (entry.message for entry in images.iterate(name))


def _comm(images: ImagesDir, pid: int) -> str:
    name = f"core-{pid}"
    return str(images.read_one(name).tc.comm) if images.has(name) else ""


def _files(images: ImagesDir) -> int:
    return sum(1 for _file in _messages(images, "files")) if images.has("files") else 0


def _stats(images: ImagesDir) -> tuple[dict[str, int], dict[str, int]]:
    """Return the times and the page counts of stats-dump, without which an older dump may have been kept."""
    if not images.has("stats-dump"):
        return {}, {}
    stats = {field.name: value for field, value in images.read_one("stats-dump").dump.ListFields()}
    timings = {name: value for name, value in stats.items() if name.endswith("_time")}
    return timings, {name: value for name, value in stats.items() if name not in timings}
