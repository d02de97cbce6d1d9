# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The bodies of frames as values, and back: whatever comes is looked at before anything is done with it."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..errors import MoveError
from ..images.checksum import STRETCH
from ..images.pagemap import PAGE_SIZE
from ..images.schema import message
from ..resources.memory.mapping import MAP_GROWSDOWN, MAP_LOCKED, MAP_NORESERVE, VMA_ANON_PRIVATE, VMA_AREA_REGULAR
from ..resources.memory.restore import TASK_SIZE
from .shape import Member, Shape

_AREA = struct.Struct("<QQIIQ")  # start, end, protection, flags, advice
_PID = struct.Struct("<II")  # a process, and a count
_PIECE = struct.Struct("<QI4x")  # address, bytes
_PART = struct.Struct("<QQ")  # offset and bytes of a part of a file
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE
_PROT = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
_MOST_PROCESSES = 1 << 16
_LARGEST_OBJECT = 1 << 46
_LONGEST_NAME = 249  # memfd_create(2)
_LARGEST_NUMBER = 1 << 22
"""PID_MAX_LIMIT (include/linux/threads.h)."""


class ObjectFacts(NamedTuple):
    """What is told of memory that is a file before its content."""

    number: int
    """By which its content is sent."""
    shmid: int
    """That of the images; 0 before the last round."""
    name: str
    size: int
    """Bytes."""
    sealable: bool


def pack(values: object) -> bytes:
    """Return VALUES as a body."""
    return json.dumps(values, separators=(",", ":")).encode()


def unpack(body: memoryview) -> dict[str, Any]:
    """Return the values of BODY. Raises MoveError when there are none."""
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise garbled() from error
    if not isinstance(found, dict):
        raise garbled()
    return found


def garbled() -> MoveError:
    """Return the error for what makes no sense."""
    return MoveError("what comes over the connection makes no sense; use the same Stillframe on both hosts, and see who the other is")


def pack_shape(shape: Shape, last: bool = False) -> bytes:
    """Return SHAPE as a body; LAST: the tree stands still from now on."""
    return pack({"members": shape, "last": last})


def is_last(body: memoryview) -> bool:
    """Tell whether the shape in BODY is that of the last round. Raises MoveError."""
    return unpack(body).get("last") is True


def unpack_shape(body: memoryview) -> Shape:
    """Return the shape in BODY, a tree: parents come before their children. Raises MoveError for what is none."""
    try:
        found = tuple(Member(*map(_number, one)) for one in unpack(body)["members"])
    except (KeyError, TypeError) as error:
        raise garbled() from error
    pids: set[int] = set()
    for one in found:
        rooted = one.ppid in pids if pids else one.ppid == 0
        if not rooted or one.pid in pids or one.pid < 2 or one.exit_signal > 64:
            raise garbled()
        pids.add(one.pid)
    if not found or len(found) > _MOST_PROCESSES:
        raise garbled()
    return found


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_NUMBER:
        raise garbled()
    return value


def pack_areas(pid: int, vmas: Sequence[Any]) -> bytes:
    """Return VMAS, vma_entry messages of private anonymous mappings of PID, as a body."""
    areas = [_AREA.pack(vma.start, vma.end, vma.prot, vma.flags, vma.madv) for vma in vmas]
    return _PID.pack(pid, len(vmas)) + b"".join(areas)


def unpack_areas(body: memoryview) -> tuple[int, list[Any]]:
    """Return the process and the mappings in BODY. Raises MoveError for what no process can have."""
    pid, count = _head(body)
    if len(body) != _PID.size + count * _AREA.size:
        raise garbled()
    found, entry, last = [], message("vma_entry"), 0
    for start, end, prot, flags, madv in _AREA.iter_unpack(body[_PID.size :]):
        if not last <= start < end <= TASK_SIZE or (start | end) % PAGE_SIZE or prot & ~_PROT or flags & ~_FLAGS or start < PAGE_SIZE:
            raise garbled()
        status = VMA_AREA_REGULAR | VMA_ANON_PRIVATE
        found.append(entry(start=start, end=end, pgoff=0, shmid=0, prot=prot, flags=flags, status=status, fd=-1, madv=madv))
        last = end
    return pid, found


def pack_pages(pid: int, pieces: Sequence[tuple[int, int]]) -> bytes:
    """Return what goes before the content of PIECES, (address, bytes) each, of PID."""
    return _PID.pack(pid, len(pieces)) + b"".join(_PIECE.pack(*piece) for piece in pieces)


def unpack_pages(body: memoryview) -> tuple[int, list[tuple[int, int]], memoryview]:
    """Return the process, the pieces and their content in BODY. Raises MoveError when they do not fit each other."""
    pid, count = _head(body)
    start = _PID.size + count * _PIECE.size
    if start > len(body):
        raise garbled()
    pieces = list(_PIECE.iter_unpack(body[_PID.size : start]))
    if sum(length for _address, length in pieces) != len(body) - start:
        raise garbled()
    return pid, pieces, body[start:]


def unpack_zeros(body: memoryview) -> tuple[int, list[tuple[int, int]]]:
    """Return the process and the pieces in BODY that have no content to be sent. Raises MoveError."""
    pid, count = _head(body)
    if len(body) != _PID.size + count * _PIECE.size:
        raise garbled()
    return pid, list(_PIECE.iter_unpack(body[_PID.size :]))


def pack_part(offset: int, length: int, data: memoryview) -> tuple[bytes, memoryview]:
    """Return LENGTH bytes of a file from OFFSET on, DATA or nothing for zeros, as the parts of a body."""
    return _PART.pack(offset, length), data


def unpack_part(body: memoryview) -> tuple[int, int, memoryview]:
    """Return offset, length and content, nothing for zeros, of the part of a file in BODY. Raises MoveError."""
    if len(body) < _PART.size:
        raise garbled()
    offset, length = _PART.unpack(body[: _PART.size])
    if not 0 < length <= STRETCH or len(body) - _PART.size not in (0, length):
        raise garbled()
    return offset, length, body[_PART.size :]


def pack_object(known: ObjectFacts) -> bytes:
    """Return what KNOWN tells as a body."""
    return pack(known._asdict())


def unpack_object(body: memoryview) -> ObjectFacts:
    """Return what BODY tells of an object. Raises MoveError for what none can be."""
    values = unpack(body)
    try:
        found = ObjectFacts(*(values[name] for name in ObjectFacts._fields))
        encoded = found.name.encode()
    except (KeyError, AttributeError, UnicodeEncodeError) as error:
        raise garbled() from error
    numbers = (found.number, found.shmid, found.size)
    if any(not isinstance(one, int) or isinstance(one, bool) or not 0 <= one <= _LARGEST_OBJECT for one in numbers):
        raise garbled()
    if b"\0" in encoded or len(encoded) > _LONGEST_NAME or not isinstance(found.sealable, bool):
        raise garbled()
    return found


def _head(body: memoryview) -> tuple[int, int]:
    if len(body) < _PID.size:
        raise garbled()
    pid, count = _PID.unpack(body[: _PID.size])
    return pid, count
