# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of the tree that a dump keeps, as they were at the stop: their content is below the dump's directory, the rest in its manifest.

What lies there is never written to again, so that dumps of a chain can share it (link(2)).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DIRECTORY = "stillframe-files"
"""Below the directory of the dump. Its files are numbered."""


@dataclass(frozen=True)
class KeptFile:
    """One file."""

    name: str
    """In the directory."""
    path: str
    """As the tree sees it."""
    size: int
    mode: int
    """st_mode: kind and permissions."""
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    device: int
    inode: int
    """st_dev and st_ino: programs may remember these."""
    checksum: str
    algorithm: str
    xattrs: Mapping[str, str] = field(default_factory=dict)
    """In hexadecimal, access control lists among them."""
    stamp: tuple[int, ...] = ()
    """st_dev, st_ino, st_size, st_mtime_ns and st_ctime_ns: with these it still has this content. Empty where they do not tell."""


@dataclass(frozen=True)
class KeptDirectory:
    """A directory above a kept file."""

    path: str
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Kept:
    """All that one dump keeps."""

    files: tuple[KeptFile, ...] = ()
    directories: tuple[KeptDirectory, ...] = ()
    """Each after those above it."""
    absent: tuple[str, ...] = ()
    """Paths where nothing was, and nothing may be for the files to have their meaning: journals of a database."""


def kept_from(body: Mapping[str, Any]) -> Kept:
    """Return what BODY, of a manifest, tells. Raises KeyError, TypeError, ValueError when a part is missing, or leads elsewhere."""
    files = tuple(KeptFile(**{**record, "stamp": tuple(record["stamp"])}) for record in body["files"])
    if not all(is_kept_name(f"{DIRECTORY}/{file.name}") and file.path.startswith("/") for file in files):
        raise ValueError("a kept file is not where such files are")
    return Kept(files, tuple(KeptDirectory(**record) for record in body["directories"]), tuple(body["absent"]))


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Return the stamp of a file as KeptFile has it."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def kept_names(images_dir: str) -> list[str]:
    """Return the names, relative to IMAGES_DIR, of what lies in the directory of kept files. Raises OSError."""
    path = os.path.join(images_dir, DIRECTORY)
    if os.path.islink(path) or not os.path.isdir(path):
        return []
    return [os.path.join(DIRECTORY, name) for name in os.listdir(path)]


def is_kept_name(name: str) -> bool:
    """Tell whether NAME, relative to the directory of a dump, is that of a kept file."""
    return re.fullmatch(f"{DIRECTORY}/[0-9]+", name) is not None


def kept_path(images_dir: str, file: KeptFile) -> str:
    """Return where the content of FILE is."""
    return os.path.join(images_dir, DIRECTORY, file.name)


def remove_kept(images_dir: str) -> None:
    """Remove all kept files of the dump in IMAGES_DIR. Raises OSError."""
    for name in kept_names(images_dir):
        os.unlink(os.path.join(images_dir, name))
    path = os.path.join(images_dir, DIRECTORY)
    if os.path.isdir(path) and not os.path.islink(path):
        os.rmdir(path)
