# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest of a dump, `stillframe.json`: what the format of CRIU has no place for.

A dump that CRIU made has none, until dedup frees pages of it: then it gets one that only tells which.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import ChainError
from .checksum import STRETCH
from .fault import fault, faults
from .image import create
from .kept import Kept, kept_from
from .ranges import Range

FILE_NAME = "stillframe.json"
RECEIVED_NAME = "stillframe-pages.json"
"""What a page server leaves beside the pages that it has received whole: a manifest of them alone."""
FORMAT = 1
PARTIAL = ".partial"
_TAIL = b',"checksum":"%08x"}\n'
"""The CRC-32 of all before it, with the bracket that it comes before."""
DUMP, PRE_DUMP = "dump", "pre-dump"
STILLFRAME, CRIU, PAGE_SERVER = "stillframe", "criu", "page-server"


@dataclass(frozen=True)
class Tree:
    """Which process tree it is: a process id alone is used again."""

    pid: int
    start_time: int
    """Of the root task, in clock ticks since boot: field 22 of /proc/PID/stat."""
    boot_id: str
    """/proc/sys/kernel/random/boot_id."""


@dataclass(frozen=True)
class ImageRecord:
    """One image file as it was written."""

    size: int
    checksum: str
    algorithm: str = ""
    """Empty where it is the manifest's."""


@dataclass(frozen=True)
class PagesRecord:
    """One pages file."""

    size: int
    stretches: tuple[str, ...] = ()
    """The checksum of each stretch, gone pages counted as zeros. None for a dump made by CRIU."""
    gone: tuple[Range, ...] = ()
    """Pages of the file, counted from 0, that dedup has freed or is about to free."""
    algorithm: str = ""
    """Empty where it is the manifest's."""


@dataclass(frozen=True)
class FileRecord:
    """One file that the tree has open or mapped."""

    path: str
    size: int
    mtime_ns: int
    mode: int
    build_id: str = ""
    """Hexadecimal; empty for what is no ELF file or has none."""


@dataclass(frozen=True)
class Manifest:
    """What `stillframe.json` holds."""

    id: str
    """UUID of this dump; empty for one made by CRIU."""
    kind: str = DUMP
    """dump or pre-dump."""
    parent_id: str = ""
    made_by: str = STILLFRAME
    created: str = ""
    """Time of the commit, UTC, ISO 8601."""
    tracker: str = "none"
    """What told the changed pages: uffd_wp, soft_dirty, compare; none for a full dump."""
    tracking: str = "none"
    """The tracker that was left armed."""
    tree: Tree = Tree(0, 0, "")
    host: str = ""
    kernel: str = ""
    """Release, as uname -r tells it."""
    cpu_features: tuple[str, ...] = ()
    page_size: int = 4096
    algorithm: str = ""
    """Of all checksums: xxh3_64 or crc32; empty where there are none."""
    stretch: int = STRETCH
    """Bytes of a pages file under one checksum."""
    images: Mapping[str, ImageRecord] = field(default_factory=dict)
    """By file name."""
    pages: Mapping[str, PagesRecord] = field(default_factory=dict)
    """By file name."""
    files: tuple[FileRecord, ...] = ()
    kept: Kept = Kept()
    """The files that the dump keeps."""
    clocks: Mapping[str, int] = field(default_factory=dict)
    """Nanoseconds that each clock showed which counts from the start of the machine."""
    timings: Mapping[str, int] = field(default_factory=dict)
    """Microseconds, named as in DumpResult."""
    figures: Mapping[str, int] = field(default_factory=dict)
    """Pages, named as in DumpResult."""
    page_server: str = ""
    """Where the pages were sent to; empty when they are in the same directory."""


def write_manifest(images_dir: str, manifest: Manifest, name: str = FILE_NAME) -> None:
    """Put MANIFEST into IMAGES_DIR in one step: whoever reads finds the old one or the new. Raises ImagesError."""
    path = os.path.join(images_dir, name)
    text = _canonical({"format": FORMAT, **vars(manifest)})
    with faults("write", path):
        with create(path + PARTIAL) as file:
            file.write(text[:-1] + _TAIL % zlib.crc32(text))
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + PARTIAL, path)


def read_manifest(images_dir: str) -> Manifest | None:
    """Return the manifest in IMAGES_DIR, with what a page server has received there, None when there is none.

    Raises ChainError when it is damaged, of a newer format, or not of the dump that the pages are of.
    """
    own, received = _read(manifest_path(images_dir)), _read(os.path.join(images_dir, RECEIVED_NAME))
    if own is None or received is None:
        return own or received
    if own.id and own.id != received.id:
        raise ChainError(
            f"{images_dir} holds the pages of dump {received.id} and the other images of dump {own.id}; copy those of one dump together"
        )
    images = {name: replace(record, algorithm=received.algorithm) for name, record in received.images.items()}
    pages = {name: replace(record, algorithm=received.algorithm) for name, record in received.pages.items()}
    return replace(own, images={**own.images, **images}, pages={**own.pages, **pages})


def rewrite_pages(images_dir: str, manifest: Manifest) -> None:
    """Put the pages that MANIFEST tells of into the file in IMAGES_DIR that tells of them now. Raises ImagesError, ChainError."""
    received = _read(os.path.join(images_dir, RECEIVED_NAME))
    if received is None:
        write_manifest(images_dir, manifest)
    else:  # the other file is copied there when it pleases the user, again and again
        write_manifest(images_dir, replace(received, pages=manifest.pages), RECEIVED_NAME)


def manifest_path(images_dir: str) -> str:
    """Return the path of the manifest of the dump in IMAGES_DIR."""
    return os.path.join(images_dir, FILE_NAME)


def is_received(images_dir: str) -> bool:
    """Return whether IMAGES_DIR holds pages that a page server has received whole."""
    return os.path.isfile(os.path.join(images_dir, RECEIVED_NAME))


def _read(path: str) -> Manifest | None:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ChainError(str(fault("read", path, error))) from error
    try:
        body = json.loads(text)
        newer = isinstance(body["format"], int) and body["format"] > FORMAT
        checksum = body.pop("checksum", "")
        covered = text[: -len(_TAIL % 0)] + b"}"
        usual = text == covered[:-1] + _TAIL % zlib.crc32(covered)
        damaged = not usual and checksum != f"{zlib.crc32(_canonical(body)):08x}"
        manifest = None if newer or damaged else _manifest(body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    if newer:
        raise ChainError(
            f"{path} was written by a newer Stillframe (format {body['format']}, known here: {FORMAT}); "
            "use a Stillframe at least as new as the one that made the dump",
            path,
        )
    if manifest is None:
        raise _damaged(path)
    return manifest


def _damaged(path: str) -> ChainError:
    return ChainError(f"{path} is damaged: its content does not match its own checksum; use another copy of the dump", path)


def _canonical(body: Mapping[str, Any]) -> bytes:
    """Return BODY as canonical JSON; its CRC-32 is the one checksum that every Python of every version can tell."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), default=vars).encode()


def _manifest(body: Mapping[str, Any]) -> Manifest:
    """Return the manifest in BODY. Raises KeyError, TypeError or ValueError when a part is missing."""
    known = {one.name for one in fields(Manifest)}
    values = {name: value for name, value in body.items() if name in known}
    values["tree"] = Tree(**body["tree"])
    values["cpu_features"] = tuple(body["cpu_features"])
    values["images"] = {name: ImageRecord(**record) for name, record in body["images"].items()}
    values["pages"] = {name: _pages(record) for name, record in body["pages"].items()}
    values["files"] = tuple(FileRecord(**record) for record in body["files"])
    if "kept" in values:
        values["kept"] = kept_from(body["kept"])
    return Manifest(**values)


def _pages(record: Mapping[str, Any]) -> PagesRecord:
    gone = tuple((int(low), int(high)) for low, high in record["gone"])
    return PagesRecord(int(record["size"]), tuple(record["stretches"]), gone, record.get("algorithm", ""))
