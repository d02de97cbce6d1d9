# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `import`: unpack an archive of dumps into a new directory, which appears only when everything in it has been verified."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from .archives.content import INDEX, SMALL, SUMS, Listing, check_name, line_of, read_listing
from .archives.sealing import read_identities, unsealing
from .archives.tar import Member, Read, read_member
from .chains.lock import changing_root
from .chains.removal import hidden, sync
from .errors import ChainError, ImagesError
from .images.directory import PARENT
from .images.fault import faults
from .images.image import create
from .images.kept import is_kept_name
from .verify import verify

_AT_ONCE = 1 << 20
_SUFFIX = ".importing"
_ZEROS = bytes(_AT_ONCE)
_GRAIN = 1 << 16
"""Zeros of so many bytes are left out, and are a hole then."""


@dataclass(frozen=True)
class ImportResult:
    """What `import` made, or would make."""

    archive: str
    images_root: str
    dumps: tuple[str, ...]
    """The directories of the dumps, newest first."""
    bytes_written: int
    """Sizes of their files."""


def import_chain(archive: str, images_root: str, identity_file: str = "", check: bool = False) -> ImportResult:
    """Unpack the dumps in ARCHIVE into the new directory IMAGES_ROOT; with CHECK only read it all and compare its checksums.

    IDENTITY_FILE holds the private key of one that is encrypted. Raises UsageError, ChainError for an archive that is damaged,
    ImagesError; then there is no such directory.
    """
    identities = read_identities(identity_file) if identity_file else []
    root = os.path.abspath(images_root)
    if os.path.lexists(root):
        raise ImagesError(f"{images_root} is there already; give the path of a directory that is not, or take it away")
    if not os.path.isdir(os.path.dirname(root)):
        raise ImagesError(f"{os.path.dirname(root)} is no directory; make it first, only {os.path.basename(root)} in it is made")
    with changing_root(os.path.dirname(root)):
        staging = hidden(root, _SUFFIX)
        shutil.rmtree(staging, ignore_errors=True)  # an earlier run was killed
        with _staged(staging):
            with _told(archive), open(archive, "rb") as file, unsealing(file, identities) as read:
                listing, size = _unpack(read, "" if check else staging)
            if not check:
                _finish(staging, listing, images_root)
                with faults("create", images_root):
                    os.rename(staging, root)
                    sync(os.path.dirname(root))
    return ImportResult(archive, images_root, tuple(os.path.join(images_root, name) for name in listing.names), size)


@contextmanager
def _staged(staging: str) -> Iterator[None]:
    """Take away directory STAGING should the block fail."""
    try:
        yield
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _told(archive: str) -> Iterator[None]:
    """Turn what is wrong with ARCHIVE into one sentence that names it."""
    try:
        with faults("read", archive):
            yield
    except ValueError as error:
        raise ChainError(f"{archive} is damaged, or no archive of dumps: {error}; use another copy of it", archive) from error


def _unpack(read: Read, staging: str) -> tuple[Listing, int]:
    """Compare the checksums of all that READ gives, and put it into directory STAGING, if there is one; return what it is, and its size.

    Raises ValueError for what is damaged, ImagesError.
    """
    first = _next(read)
    if first.name != INDEX:
        raise ValueError(f"it begins with {first.name!r}")
    content = _small(read, first)
    listing = read_listing(content)
    for directory in ("", *listing.names) if staging else ():
        with faults("create", staging):
            os.mkdir(os.path.join(staging, directory), 0o700)
    sums, size = {INDEX: line_of(hashlib.sha256(content).hexdigest(), INDEX)}, 0
    member = _next(read)
    while member.name != SUMS:
        directory, name = check_name(member.name, listing)
        if staging and is_kept_name(name):
            with faults("create", staging):
                os.makedirs(os.path.dirname(os.path.join(staging, directory, name)), 0o700, exist_ok=True)
        if member.name in sums:
            raise ValueError(f"{member.name!r} is in it twice")
        path = os.path.join(staging, directory, name)
        digest = _taken(read, member, path) if staging else _read_through(read, member)
        sums[member.name] = line_of(digest, member.name)
        size += member.size
        member = _next(read)
    told = _small(read, member).decode("utf-8", "surrogateescape")
    if told != "".join(sums.values()):
        wrong = set(sums.values()) ^ set(told.splitlines(keepends=True))
        raise ValueError(f"checksums do not match: {', '.join(sorted({line[66:].strip() for line in wrong}))}")
    if read_member(read) is not None:
        raise ValueError("something follows its checksums")
    return listing, size


def _next(read: Read) -> Member:
    member = read_member(read)
    if member is None:
        raise ValueError("it ends too early")
    return member


def _small(read: Read, member: Member) -> bytes:
    """Return the content of MEMBER, which is no file of a dump."""
    if member.size > SMALL:
        raise ValueError(f"{member.name} is too long")
    content = b"".join(_data(read, member.size))
    _skip_padding(read, member)
    return content


def _taken(read: Read, member: Member, path: str) -> str:
    """Write MEMBER to the new file at PATH and return its SHA-256."""
    with faults("write", path), create(path) as file:
        os.ftruncate(file.fileno(), member.size)
        digest = _read_through(read, member, file)
        os.utime(file.fileno(), (member.mtime, member.mtime))
        os.fsync(file.fileno())
    return digest


def _read_through(read: Read, member: Member, file: IO[bytes] | None = None) -> str:
    """Return the SHA-256 of MEMBER, whose data come next, and write these to FILE, if there is one; zeros are left out."""
    digest, at = hashlib.sha256(), 0
    for low, high in (*member.data, (member.size, member.size)):
        for done in range(at, low, _AT_ONCE):
            digest.update(_ZEROS[: low - done])
        at = low
        for part in _data(read, high - low):
            digest.update(part)
            if file is not None and part != _ZEROS[: len(part)]:
                _write(file.fileno(), part, at)
            at += len(part)
    _skip_padding(read, member)
    return digest.hexdigest()


def _data(read: Read, size: int) -> Iterator[bytes]:
    while size:
        part = read(min(size, _GRAIN))
        if not part:
            raise ValueError("it ends too early")
        yield part
        size -= len(part)


def _skip_padding(read: Read, member: Member) -> None:
    if read(member.padding) != bytes(member.padding):
        raise ValueError(f"what follows {member.name} is not as it was written")


def _write(fd: int, data: bytes, offset: int) -> None:
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def _finish(staging: str, listing: Listing, images_root: str) -> None:
    """Link each dump in STAGING to its parent, verify all of them, and bring them to disk. Raises ChainError, ImagesError."""
    with faults("create", staging):
        for name, parent in zip(listing.names, listing.names[1:]):
            os.symlink(os.path.join(os.pardir, parent), os.path.join(staging, name, PARENT))
    for fault in verify(os.path.join(staging, listing.names[0])).faults:
        raise ChainError(f"{fault.why.replace(staging, images_root)} (nothing was imported)", fault.path, fault.offset)
    with faults("write", staging):
        for name in ("", *listing.names):
            sync(os.path.join(staging, name))
