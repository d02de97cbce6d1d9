# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `export`: write a dump and all its parents into one file, to be kept elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from .archives.content import FORMAT, INDEX, SUMS, Listing, line_of
from .archives.sealing import read_recipients, sealing
from .archives.tar import END, Member, data_of
from .chains.lock import reading
from .chains.removal import sync
from .errors import ChainError, ImagesError
from .images.chain import Dump, open_chain
from .images.directory import PARENT, dump_files
from .images.fault import faults
from .images.image import create
from .images.manifest import PARTIAL
from .images.punch import data_ranges
from .images.ranges import merged
from .verify import verify

_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class ExportResult:
    """What `export` wrote, or would write."""

    images_dir: str
    archive: str
    dumps: tuple[str, ...]
    """The directories of the dumps in it, newest first."""
    bytes_read: int
    """Of their data; holes are none."""
    bytes_written: int
    """Size of the archive, 0 in check mode."""
    compressed: bool
    encrypted: bool


def export_chain(images_dir: str, archive: str, compress: bool = False, recipients_file: str = "", check: bool = False) -> ExportResult:
    """Write the dump in IMAGES_DIR and all its parents, verified first, into the new file ARCHIVE; with CHECK only tell.

    With COMPRESS by zstd; for the owners of the public keys in RECIPIENTS_FILE alone, if there is one. Raises UsageError,
    ChainError for a chain that is damaged, ImagesError; then there is no such file.
    """
    recipients = read_recipients(recipients_file) if recipients_file else []
    if os.path.lexists(archive):
        raise ImagesError(f"{archive} is there already; give another name, or take it away")
    with reading(images_dir):
        for fault in verify(images_dir).faults:
            raise ChainError(f"{fault.why} (nothing was exported)", fault.path, fault.offset)
        dumps = open_chain(images_dir, verify=False).dumps
        members = list(_members(dumps))
        size = sum(end - start for _path, member in members for start, end in member.data)
        if not check:
            _write_new(archive, dumps, members, compress, recipients)
    written = 0 if check else os.stat(archive).st_size
    return ExportResult(images_dir, archive, tuple(dump.path for dump in dumps), size, written, compress, bool(recipients))


def _names(dumps: Sequence[Dump]) -> list[str]:
    """Return under which name each of DUMPS is in the archive: that of its directory, or where two have the same, a number too."""
    names: list[str] = []
    for number, dump in enumerate(dumps):
        name = os.path.basename(os.path.realpath(dump.path)).lstrip(".") or "dump"
        names.append(name if name not in names else f"{name}.{number}")
    return names


def _members(dumps: Sequence[Dump]) -> Iterator[tuple[str, Member]]:
    """Yield the path of each file of DUMPS with what it is in the archive. Raises ImagesError."""
    for dump, directory in zip(dumps, _names(dumps)):
        for name in dump_files(dump.path):
            path = os.path.join(dump.path, name)
            if name == PARENT or name.endswith(PARTIAL):
                continue
            with faults("read", path), open(path, "rb") as file:
                found = os.fstat(file.fileno())
                data = tuple(merged(data_of(data_ranges(file.fileno()), found.st_size)))
                yield path, Member(f"{directory}/{name}", found.st_size, data, int(found.st_mtime))


def _write_new(
    archive: str, dumps: Sequence[Dump], members: Sequence[tuple[str, Member]], compress: bool, recipients: list[object]
) -> None:
    partial = archive + PARTIAL
    try:
        with faults("write", archive), create(partial) as file:
            with sealing(file, compress, recipients) as out:
                _write(out, dumps, members)
            file.flush()
            os.fsync(file.fileno())
        with faults("create", archive):
            os.link(partial, archive)  # unlike a rename, it takes nobody else's place
            sync(os.path.dirname(os.path.abspath(archive)))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial)


def _write(out: IO[bytes], dumps: Sequence[Dump], members: Sequence[tuple[str, Member]]) -> None:
    names = _names(dumps)
    listing = Listing(FORMAT, tuple(names), tuple(dump.id for dump in dumps))
    sums = [_put(out, INDEX, json.dumps(listing._asdict()).encode())]
    for path, member in members:
        out.write(member.head())
        with faults("read", path), open(path, "rb", buffering=0) as file:
            sums.append(line_of(_copied(file, path, member, out), member.name))
        out.write(bytes(member.padding))
    _put(out, SUMS, "".join(sums).encode("utf-8", "surrogateescape"))
    out.write(END)


def _put(out: IO[bytes], name: str, content: bytes) -> str:
    member = Member(name, len(content), ((0, len(content)),))
    out.write(member.head() + content + bytes(member.padding))
    return line_of(hashlib.sha256(content).hexdigest(), name)


def _copied(file: IO[bytes], path: str, member: Member, out: IO[bytes]) -> str:
    """Write the data of MEMBER, which FILE at PATH is, to OUT; return the SHA-256 of all of it. Raises ImagesError."""
    digest = hashlib.sha256()
    at = 0
    for low, high in (*member.data, (member.size, member.size)):
        _zeros(digest, low - at)
        at = low
        while at < high:
            data = os.pread(file.fileno(), min(_AT_ONCE, high - at), at)
            if not data:
                raise ChainError(f"{path} is truncated at offset {at}; use another copy of the dump", path, at)
            digest.update(data)
            out.write(data)
            at += len(data)
    return digest.hexdigest()


def _zeros(digest: hashlib._Hash, count: int) -> None:
    for done in range(0, count, _AT_ONCE):
        digest.update(bytes(min(_AT_ONCE, count - done)))
