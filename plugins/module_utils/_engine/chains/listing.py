# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The dumps in one directory, the images root: each in a directory of its own, in the order of the links to their parents."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from ..errors import ChainError
from ..images.chain import open_chain, open_dump
from ..images.directory import INVENTORY, is_dump, parent_link
from ..images.fault import faults
from ..images.manifest import DUMP, read_manifest

PIN = "pinned"
"""A file of this name in the directory of a dump keeps the dump from being removed."""


@dataclass(frozen=True)
class Listed:
    """One dump, as far as it is known without looking at its images."""

    path: str
    """Its directory, no symbolic link in it."""
    parent: str
    """The directory that it counts on, empty for a full dump. Nothing need be there."""
    created: datetime
    """UTC; of a dump made by CRIU, the time at which its inventory was written."""
    restorable: bool
    """Whether it can be restored, by what the dumps say: it is no pre-dump, and dedup has freed nothing that it needs."""
    freed: bool
    """Whether dedup has freed pages of it."""
    pinned: bool


def listed(root: str) -> list[Listed]:
    """Return the finished dumps in the directories of ROOT, parents before those that are on top of them, else by time.

    Raises ImagesError, ChainError for one whose manifest is damaged.
    """
    found = [_listed(path) for path in directories(root) if is_dump(path)]
    return _with_parents(list(_parents_first(sorted(found, key=lambda dump: (dump.created, dump.path)))))


def directories(root: str) -> list[str]:
    """Return the directories in ROOT that may hold a dump each, as real paths. Raises ImagesError."""
    root = os.path.realpath(root)
    with faults("list", root), os.scandir(root) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))


def _listed(path: str) -> Listed:
    manifest = read_manifest(path)
    text = manifest.created if manifest else ""
    try:
        created = datetime.fromisoformat(text).astimezone(timezone.utc) if text else _written(path)
    except (ValueError, TypeError) as error:
        raise ChainError(f"{path} was made at {text!r}, which is no time; use another copy of the dump") from error
    kind = manifest.kind if manifest else open_dump(path).kind
    freed = any(record.gone for record in manifest.pages.values()) if manifest else False
    return Listed(path, parent_link(path), created, kind == DUMP and not freed, freed, os.path.lexists(os.path.join(path, PIN)))


def _written(path: str) -> datetime:
    with faults("read", path):
        return datetime.fromtimestamp(os.stat(os.path.join(path, INVENTORY)).st_mtime, timezone.utc)


def _with_parents(dumps: Sequence[Listed]) -> list[Listed]:
    """Return DUMPS with those called not restorable too that need what dedup has freed in their parents."""
    worse: set[str] = set()
    told = []
    for dump in dumps:
        if dump.parent in worse or dump.freed:
            worse.add(dump.path)
        if dump.restorable and dump.path in worse:
            dump = replace(dump, restorable=open_chain(dump.path, verify=False).restorable())
        told.append(dump)
    return told


def _parents_first(dumps: Sequence[Listed]) -> Iterator[Listed]:
    by_path = {dump.path: dump for dump in dumps}
    done: set[str] = set()
    for dump in dumps:
        line: list[Listed] = []
        here: Listed | None = dump
        while here is not None and here.path not in done:
            done.add(here.path)
            line.append(here)
            here = by_path.get(here.parent)
        yield from reversed(line)
