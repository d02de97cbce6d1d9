# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What an archive holds beside the files of dumps: first which dumps they are, last the SHA-256 of all files, as sha256sum(1) has them."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ..images.directory import PARENT, is_dump_file
from ..images.kept import is_kept_name
from ..images.manifest import PARTIAL

INDEX, SUMS = "stillframe-archive.json", "SHA256SUMS"
FORMAT = 1
SMALL = 1 << 26
"""Bytes that neither of the two has."""


class Listing(NamedTuple):
    """The dumps in an archive, newest first, each made on top of the next."""

    format: int
    names: tuple[str, ...]
    """Of their directories."""
    ids: tuple[str, ...]
    """UUIDs; empty for one made by CRIU."""


def read_listing(content: bytes) -> Listing:
    """Return the listing in CONTENT. Raises ValueError, also for a newer format."""
    body = json.loads(content)
    if not isinstance(body, dict) or not isinstance(body.get("format"), int):
        raise ValueError("its index is damaged")
    if body["format"] > FORMAT:
        raise ValueError(f"it has format {body['format']}, known here is {FORMAT}, which a newer Stillframe may know")
    names, ids = body.get("names"), body.get("ids")
    if not (isinstance(names, list) and isinstance(ids, list) and names and len(names) == len(ids) == len(set(map(str, names)))):
        raise ValueError("its index is damaged")
    if not all(isinstance(one, str) for one in (*names, *ids)) or not all(map(_is_name, names)):
        raise ValueError("its index has names that are none of directories")
    return Listing(FORMAT, tuple(names), tuple(ids))


def check_name(name: str, listing: Listing) -> tuple[str, str]:
    """Return the directory and the file that member NAME is for. Raises ValueError unless they are those of a dump of LISTING."""
    directory, slash, file = name.partition("/")
    image = _is_name(file) and is_dump_file(file) and file != PARENT and not file.endswith(PARTIAL)
    if not slash or directory not in listing.names or not (image or is_kept_name(file)):
        raise ValueError(f"{name!r} is no file of a dump in it")
    return directory, file


def _is_name(name: str) -> bool:
    return bool(re.fullmatch(r"[^./\0\n][^/\0\n]*", name))


def line_of(digest: str, name: str) -> str:
    """Return the line of SHA256SUMS for the file NAME."""
    return f"{digest}  {name}\n"
