# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The members of an archive of dumps: tar, of which one sequence of bytes alone is right, so that no flipped bit goes unnoticed.

Files with holes are of the form PAX 1.0 of GNU tar ("Storing Sparse Files" in its manual): their data alone are stored, after a map
of where they belong. GNU tar and bsdtar unpack them.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..errors import ImagesError
from ..images.ranges import Range, total

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
NAME_BYTES = 80
"""Longest name: with what goes before it, it still has to fit a header, which has 100."""
_SPARSE = "GNUSparseFile.0/"
_CHECKSUM, _MAGIC = slice(148, 156), slice(257, 265)
_RECORDS_MOST = 1 << 10
_MAP_MOST = 1 << 26
"""Bytes; far above what any file has."""
_RECORDS = re.compile(
    rb"\d+ GNU\.sparse\.major=1\n\d+ GNU\.sparse\.minor=0\n\d+ GNU\.sparse\.name=([^\n]+)\n\d+ GNU\.sparse\.realsize=(\d{1,19})\n"
)

Read = Callable[[int], bytes]
"""Returns as many bytes as it is asked for, less only at the end."""


class Member(NamedTuple):
    """One file in an archive."""

    name: str
    size: int
    data: tuple[Range, ...]
    """Ranges of bytes that are stored, sorted; the others read as zeros."""
    mtime: int = 0
    """Seconds: of dumps by CRIU it is all that tells when they were made."""

    @property
    def padding(self) -> int:
        """Zero bytes after the data."""
        return -total(self.data) % BLOCK

    def head(self) -> bytes:
        """Return what comes before the data. Raises ImagesError for a name that does not fit."""
        if len(self.name.encode("utf-8", "surrogateescape")) > NAME_BYTES:
            raise ImagesError(f"{self.name} is too long a name for an archive; give the directory of the dump a shorter one")
        if self.data == whole(self.size):
            return _header(self.name, self.size, tarfile.REGTYPE, self.mtime)
        records = b"".join(
            _record(keyword, value.encode("utf-8", "surrogateescape"))
            for keyword, value in (("major", "1"), ("minor", "0"), ("name", self.name), ("realsize", str(self.size)))
        )
        last = () if self.data and self.data[-1][1] == self.size else ((self.size, self.size),)  # GNU tar ends a hole so
        told = (*self.data, *last)
        listing = "".join(f"{number}\n" for number in (len(told), *(one for low, high in told for one in (low, high - low))))
        content = _padded(listing.encode())
        first = _header("PaxHeaders/sparse", len(records), tarfile.XHDTYPE) + _padded(records)
        return first + _header(_SPARSE + self.name, len(content) + total(self.data), tarfile.REGTYPE, self.mtime) + content


def whole(size: int) -> tuple[Range, ...]:
    """Return the data of a file of SIZE bytes without holes."""
    return ((0, size),) if size else ()


def read_member(read: Read) -> Member | None:
    """Return the next member, None at the end of the archive. Raises ValueError for what is damaged, or was written by another tar."""
    block = _block(read)
    if block == bytes(BLOCK):
        if _block(read) != bytes(BLOCK) or read(1):
            raise ValueError("something follows its end")
        return None
    member, found = _plain(block) if block[156:157] == tarfile.REGTYPE else _sparse(block, read)
    if member.head() != found:
        raise ValueError(f"the header of {member.name} is not as it was written")
    return member


def _plain(block: bytes) -> tuple[Member, bytes]:
    info = _info(block)
    return Member(info.name, info.size, whole(info.size), int(info.mtime)), block


def _sparse(first: bytes, read: Read) -> tuple[Member, bytes]:
    """Return the sparse member whose FIRST block was read, and all its bytes up to the data."""
    size = _info(first).size
    if size > _RECORDS_MOST:
        raise ValueError("a header is too long")
    records = _exactly(read, size + -size % BLOCK)
    match = _RECORDS.fullmatch(records[:size])
    if match is None:
        raise ValueError("a header is not as it was written")
    second = _block(read)
    content = _block(read)
    count = 2 * int(content.partition(b"\n")[0] or b"0", 10) + 1
    while content.count(b"\n") < count and len(content) < _MAP_MOST:
        content += _block(read)
    numbers = [int(line, 10) for line in content.split(b"\n", count)[1:count]]
    data = tuple((low, low + length) for low, length in zip(numbers[::2], numbers[1::2]) if length)
    name, realsize = match[1].decode("utf-8", "surrogateescape"), int(match[2])
    bounds = [0, *(edge for one in data for edge in one), realsize]
    if sorted(bounds) != bounds:
        raise ValueError(f"the map of {name} is not in order")
    return Member(name, realsize, data, int(_info(second).mtime)), first + records + second + content


def _info(block: bytes) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise ValueError(f"a header is damaged: {error}") from error
    if info.size < 0:
        raise ValueError("a size is negative")
    return info


def _header(name: str, size: int, kind: bytes, mtime: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.type, info.mtime = size, 0o600, kind, mtime
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))  # it alone can tell sizes above 8 GiB
    block[_MAGIC] = b"ustar\x0000"  # and only in headers of this kind are sparse files looked for
    block[_CHECKSUM] = b" " * 8
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(keyword: str, value: bytes) -> bytes:
    """Return one record of an extended header; the length that it begins with counts its own digits."""
    rest = b" GNU.sparse." + keyword.encode() + b"=" + value + b"\n"
    length = len(rest) + 2 if len(rest) + 2 < 100 else len(rest) + 3
    return str(length).encode() + rest


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def _block(read: Read) -> bytes:
    return _exactly(read, BLOCK)


def _exactly(read: Read, size: int) -> bytes:
    found = read(size)
    if len(found) < size:
        raise ValueError("it ends too early")
    return found


def data_of(fd_ranges: Sequence[Range], size: int) -> Iterator[Range]:
    """Yield FD_RANGES, what of a file is no hole, cut at SIZE."""
    for low, high in fd_ranges:
        if low < size:
            yield low, min(high, size)
