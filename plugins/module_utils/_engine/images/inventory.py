# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked first of an inventory, read without protobuf, which takes longer to import than a small chain to deduplicate."""

from __future__ import annotations

import re

from .image import ImagesDir
from .manifest import DUMP, PRE_DUMP

_VARINT, _BYTES = 0, 2
"""Wire types: a number of seven bits a byte, and a length of that form with as many bytes."""
_NUMBER = re.compile(rb"[\x80-\xff]{0,9}[\0-\x7f]")
_IMG_VERSION, _PRE_DUMP_MODE = 1, 9
"""Numbers of fields of inventory_entry (images/inventory.proto of CRIU 4.2)."""


def version_and_kind(images: ImagesDir) -> tuple[int, str]:
    """Return the version of the format that IMAGES are of, and whether they are a dump or a pre-dump. Raises ImagesError."""
    with images.source("inventory") as source:
        encoded = source.entry("a inventory_entry") if source.left() else b""
        numbers = {} if source.left() else _numbers(encoded)
    if _IMG_VERSION not in numbers:
        inventory = images.read_one("inventory")
        return inventory.img_version, PRE_DUMP if inventory.HasField("pre_dump_mode") else DUMP
    return numbers[_IMG_VERSION], PRE_DUMP if _PRE_DUMP_MODE in numbers else DUMP


def _numbers(encoded: bytes) -> dict[int, int]:
    """Return the numbers in the message ENCODED by their fields, nothing where it has not the usual form."""
    found: dict[int, int] = {}
    at = 0
    while at < len(encoded):
        key, at = _number(encoded, at)
        value, at = _number(encoded, at)
        if key & 7 == _BYTES:
            at += value
        elif key & 7 == _VARINT:
            found[key >> 3] = value
        else:
            return {}
    return found if at == len(encoded) else {}


def _number(encoded: bytes, at: int) -> tuple[int, int]:
    """Return the number at AT, and where it ends; past the end of all where there is none."""
    match = _NUMBER.match(encoded, at)
    if match is None:
        return 0, len(encoded) + 1
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(match[0])), match.end()
