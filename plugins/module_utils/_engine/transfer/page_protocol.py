# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump and a page server say to each other: struct page_server_iov of CRIU 4.2 (criu/page-xfer.c), 32 bytes on x86-64.

    OPEN2 image           the pages of an image follow; answered by one byte: whether the parent has that image
    PARENT image          asks that alone; answered by 32 bits
    ADD_F image run       a run of pages; if they are PE_PRESENT their bytes follow
    CLOSE                 the dump is whole; answered by 32 bits, 0 when it is safe

CRIU leaves the address and the count of OPEN2 and PARENT unused. Two ends of ours tell in them which dump it is, and on top of
which dump it is made: the 128 bits of their ids.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from ..errors import TransferError
from ..images.pagemap import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT

PS_IOV_ADD, PS_IOV_HOLE, PS_IOV_OPEN, PS_IOV_OPEN2, PS_IOV_PARENT, PS_IOV_ADD_F, PS_IOV_GET = 1, 2, 3, 4, 5, 6, 7
PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE = 0x1023, 0x1024
PS_CMD_BITS, PS_TYPE_BITS = 16, 8
PS_TYPE_PID, PS_TYPE_SHMEM = 1, 2
_OLD_TYPES = {PS_TYPE_PID: (10, 11, 16, 17), PS_TYPE_SHMEM: (27, 28, 29, 32, 33, 34)}
"""What CRIU 1.0 to 3.2 sent instead (decode_pm)."""

ADDS, OPENS = (PS_IOV_ADD, PS_IOV_HOLE, PS_IOV_ADD_F), (PS_IOV_OPEN, PS_IOV_OPEN2)
CLOSES = (PS_IOV_CLOSE, PS_IOV_FORCE_CLOSE)
_KNOWN = (*ADDS, *OPENS, *CLOSES, PS_IOV_PARENT, PS_IOV_GET)
_IOV = struct.Struct("<I4xQQQ")
SIZE = _IOV.size
PARENT_ANSWER, STATUS = struct.Struct("<i"), struct.Struct("<i")
MAX_PID = 1 << 22
"""PID_MAX_LIMIT, include/linux/threads.h."""
_END = 1 << 64
_WORD = _END - 1


@dataclass(frozen=True)
class Request:
    """One struct page_server_iov, checked."""

    command: int
    image: str = ""
    """The name of a pagemap: pagemap-PID or pagemap-shmem-ID."""
    start: int = 0
    pages: int = 0
    in_parent: bool = False
    dump_id: str = ""
    """With OPEN2 the id of the dump, with PARENT that of its parent; empty where the client tells none."""

    @property
    def end(self) -> int:
        """Address after the last page."""
        return self.start + self.pages * PAGE_SIZE


def encode(request: Request) -> bytes:
    """Return REQUEST as it goes over the wire; a run is sent as ADD_F."""
    if request.command in ADDS:
        flags = PE_PARENT if request.in_parent else PE_PRESENT
        return _IOV.pack(flags << PS_CMD_BITS | PS_IOV_ADD_F, request.pages, request.start, _destination(request.image))
    number = uuid.UUID(request.dump_id).int if request.dump_id else 0
    return _IOV.pack(request.command, number >> 64, number & _WORD, _destination(request.image) if request.image else 0)


def decode(data: bytes) -> Request:
    """Return what the 32 bytes DATA say. Raises TransferError for what no client means."""
    word, pages, start, destination = _IOV.unpack(data)
    command, flags = word & (1 << PS_CMD_BITS) - 1, word >> PS_CMD_BITS
    if command not in _KNOWN or (flags and command != PS_IOV_ADD_F):
        raise TransferError(f"{word:#x} is no command of a dump; see who has connected, and whether both ends use TLS or none")
    if command == PS_IOV_GET:
        raise TransferError("the client asks for pages (lazy-pages); restore without it")
    if command in CLOSES:
        return Request(command)
    image = _image(destination)
    if command in ADDS:
        in_parent = _in_parent(command, flags)
        if start % PAGE_SIZE or not 0 < pages <= (_END - start) // PAGE_SIZE:
            raise TransferError(f"{pages} pages at {start:#x} of {image} cannot be; see who has connected")
        return Request(command, image, start, pages, in_parent)
    number = pages << 64 | start
    return Request(command, image, dump_id=str(uuid.UUID(int=number)) if number else "")


def _in_parent(command: int, flags: int) -> bool:
    if command != PS_IOV_ADD_F:
        return command == PS_IOV_HOLE
    if flags not in (PE_PARENT, PE_PRESENT, PE_PRESENT | PE_LAZY):
        raise TransferError(f"pages with flags {flags:#x} are neither here nor in the parent; dump without lazy-pages")
    return flags == PE_PARENT


def _destination(image: str) -> int:
    """Return IMAGE as encode_pm of CRIU has it."""
    number = int(image.rpartition("-")[2])
    return number << PS_TYPE_BITS | (PS_TYPE_SHMEM if image.startswith("pagemap-shmem-") else PS_TYPE_PID)


def _image(destination: int) -> str:
    kind, number = destination & (1 << PS_TYPE_BITS) - 1, destination >> PS_TYPE_BITS
    if kind in (PS_TYPE_SHMEM, *_OLD_TYPES[PS_TYPE_SHMEM]):
        return f"pagemap-shmem-{number}"
    if kind in (PS_TYPE_PID, *_OLD_TYPES[PS_TYPE_PID]) and 0 < number <= MAX_PID:
        return f"pagemap-{number}"
    raise TransferError(f"{destination:#x} is neither a process nor shared memory; see who has connected")
