# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs `compress` and `decompress`: let the pages of a dump that is hardly ever needed take less room, and make it ready again.

Each pages file is replaced by the other form of it only when that is whole, verified and on disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from .chains.lock import changing
from .chains.removal import sync
from .images.chain import Dump, open_dump
from .images.cold import ZST, compress_file, reading_cold, require_zstd
from .images.directory import bytes_on_disk, dump_files, pages_files
from .images.fault import faults
from .images.image import create
from .images.manifest import PARTIAL
from .images.pagemap import PAGE_SIZE
from .images.verification import cold_faults, pages_faults

_AT_ONCE = 1 << 18
_ZEROS = bytes(PAGE_SIZE)


@dataclass(frozen=True)
class ColdResult:
    """What `compress` or `decompress` did, or would do."""

    images_dir: str
    files: tuple[str, ...]
    """The pages files that have changed their form."""
    bytes_before: int
    """What the dump took on disk, without its parents (st_blocks × 512)."""
    bytes_after: int
    """The same as before in check mode."""


def compress(images_dir: str, check: bool = False) -> ColdResult:
    """Compress the pages files of the dump in IMAGES_DIR, verified first; with CHECK only tell which.

    Neither it nor a dump on top of it can be restored until it is decompressed. Safe to interrupt and to repeat. Raises
    ChainError for a dump that is damaged, ImagesError; then all is as before.
    """
    require_zstd()
    with changing(images_dir):
        dump = open_dump(images_dir)
        paths = [path for path in pages_files(images_dir) if os.path.getsize(path)]
        before = bytes_on_disk(images_dir)
        for path in paths:
            for fault in pages_faults(path, dump.manifest):
                raise fault
        if not check:
            for path in paths:
                _compress(path)
        return ColdResult(images_dir, tuple(paths), before, bytes_on_disk(images_dir))


def decompress(images_dir: str, check: bool = False) -> ColdResult:
    """Make the pages files of the dump in IMAGES_DIR anew as they were before `compress`; with CHECK only verify them.

    Safe to interrupt and to repeat. Raises ChainError for a dump that is damaged, ImagesError; then all is as before.
    """
    require_zstd()
    with changing(images_dir):
        dump = open_dump(images_dir)
        paths = [os.path.join(images_dir, name[: -len(ZST)]) for name in dump_files(images_dir) if name.endswith(ZST)]
        before = bytes_on_disk(images_dir)
        for path in paths:
            if not os.path.exists(path):
                for fault in cold_faults(path, dump.manifest):
                    raise fault
        if not check:
            for path in paths:
                _decompress(path, dump)
        return ColdResult(images_dir, tuple(paths), before, bytes_on_disk(images_dir))


def _compress(path: str) -> None:
    partial = path + ZST + PARTIAL
    with faults("write", path + ZST):
        try:
            with open(path, "rb") as source, create(partial) as target:
                compress_file(source, target)
                _give(target, path)
                target.flush()
                os.fsync(target.fileno())
            os.rename(partial, path + ZST)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)
        sync(os.path.dirname(path))
        os.unlink(path)


def _decompress(path: str, dump: Dump) -> None:
    partial = path + PARTIAL
    if not os.path.exists(path):
        try:
            with reading_cold(path) as (size, read), faults("write", path), create(partial) as target:
                _write(read, target)
                target.truncate(size)
                _give(target, path + ZST)
                os.fsync(target.fileno())
            with faults("write", path):
                os.rename(partial, path)
                sync(os.path.dirname(path))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)
    for fault in pages_faults(path, dump.manifest):
        raise fault
    with faults("remove", path + ZST):
        os.unlink(path + ZST)


def _give(target: IO[bytes], path: str) -> None:
    """Let the owner of the file at PATH own TARGET, too."""
    owner = os.stat(path)
    os.fchown(target.fileno(), owner.st_uid, owner.st_gid)


def _write(read: Callable[[int], bytes], target: IO[bytes]) -> None:
    """Write what READ gives to TARGET; pages of zeros are left out, and are holes then."""
    while part := read(_AT_ONCE):
        pages = [part] if _ZEROS not in part else [part[at : at + PAGE_SIZE] for at in range(0, len(part), PAGE_SIZE)]
        for page in pages:
            if page == _ZEROS:
                target.seek(PAGE_SIZE, os.SEEK_CUR)
            else:
                target.write(page)
