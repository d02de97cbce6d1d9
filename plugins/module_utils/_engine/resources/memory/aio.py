# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Contexts of asynchronous I/O (io_setup(2)): the ring of each, at its address, with the events that nobody has fetched yet.

The kernel does not tell which requests are on their way. Where an event arrives while the tree stands still, one was.
images: mm_entry.aios, and the ring's pages as those of any mapping (VMA_AREA_AIORING).
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any, Iterator, List, NamedTuple, Sequence

from ...errors import Obstacle, RestoreError, TargetError, UnsupportedError
from ...images.pagemap import PAGE_SIZE
from ...images.schema import message
from ...kernel import procfs
from ...tracee.calls import Call, Ref
from ...tracee.tracee import Tracee
from .mapping import VMA_ANON_PRIVATE, VMA_AREA_AIORING, Mapping

# struct aio_ring of fs/aio.c: id, nr, head, tail, magic, compat_features, incompat_features, header_length
_HEADER = struct.Struct("<8I")
_HEAD_AT = 8
_MAGIC, _COMPAT_FEATURES, _INCOMPAT_FEATURES = 0xA10A10A1, 1, 0
_EVENT_SIZE = 32
_IOCB = struct.Struct("<QIIHhIQQqQII")  # struct iocb of include/uapi/linux/aio_abi.h
_IOCB_CMD_PWRITE = 1
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_NO_FD = (1 << 64) - 1
_IN_USE, _LIMIT = "/proc/sys/fs/aio-nr", "/proc/sys/fs/aio-max-nr"


class Ring(NamedTuple):
    """The head of a ring."""

    id: int
    nr: int
    """The number of events that it has room for."""
    head: int
    """The event that is to be fetched next."""
    tail: int
    """Where the kernel puts the next one."""

    @staticmethod
    def read(pid: int, start: int, size: int) -> Ring:
        """Return that of the ring of SIZE bytes at START in PID. Raises RestoreError when it cannot be one, OSError."""
        words = _HEADER.unpack(procfs.read_memory(pid, start, _HEADER.size))
        ring = Ring(*words[:4])
        known = words[4:] == (_MAGIC, _COMPAT_FEATURES, _INCOMPAT_FEATURES, _HEADER.size)
        if not known or ring.nr != (size - _HEADER.size) // _EVENT_SIZE or max(ring.head, ring.tail) >= ring.nr:
            raise RestoreError(f"the AIO ring of process {pid} at {start:x} is damaged; use another copy of the dump")
        return ring


def rings(mappings: Sequence[Mapping]) -> List[Mapping]:
    """Return those of MAPPINGS that are rings."""
    return [mapping for mapping in mappings if mapping.status & VMA_AREA_AIORING]


@dataclass(frozen=True)
class Seen:
    """The tail of a ring when its task had just been stopped."""

    pid: int
    start: int
    tail: bytes

    def check(self) -> None:
        """Raise TargetError when an event has arrived since. Raises OSError."""
        if _tail(self.pid, self.start) != self.tail:
            raise TargetError(f"asynchronous I/O of process {self.pid} was on its way when it was stopped; dump it again")


def _tail(pid: int, start: int) -> bytes:
    return procfs.read_memory(pid, start + _HEAD_AT + 4, 4)


def collect(leader: Tracee, mappings: Sequence[Mapping]) -> List[Seen]:
    """Return what the rings among MAPPINGS of a stopped process hold. Raises OSError, UnsupportedError for one of another process."""
    found = rings(mappings)
    replies = leader.batch([Call("io_getevents", (ring.start, 0, 0, 0, 0)) for ring in found])
    for ring, reply in zip(found, replies):
        if reply.value < 0:
            where = f"mapping {ring.start:x}-{ring.end:x} ({ring.area.name})"
            why = "it is the AIO ring of another process, or of one that has ended"
            raise UnsupportedError([Obstacle(leader.pid, where, why, "have the program unmap it after fork(2)")])
    return [Seen(leader.pid, ring.start, _tail(leader.pid, ring.start)) for ring in found]


def warnings(found: Sequence[Seen]) -> List[str]:
    """Return what the rings FOUND in one process are worth saying."""
    text = "requests of asynchronous I/O that are on their way are not carried; the kernel does not tell whether there are any"
    return [f"process {found[0].pid}: {text}"] if found else []


def entries(mappings: Sequence[Mapping]) -> List[Any]:
    """Return the aio_ring_entry of each ring among MAPPINGS."""
    return [_entry(ring.start, ring.end - ring.start) for ring in rings(mappings)]


def _entry(start: int, size: int) -> Any:
    # io_setup doubles what it is asked for, adds two, and fills the last page up (ioctx_alloc, aio_setup_ring in fs/aio.c)
    return message("aio_ring_entry")(id=start, ring_len=size, nr_req=((size - _HEADER.size) // _EVENT_SIZE - 2) // 2)


def check(mms: Sequence[Any]) -> Iterator[Obstacle]:
    """Yield what stands in the way of making the contexts of MMS."""
    needed = sum(entry.nr_req for mm in mms for entry in mm.aios)
    if not needed:
        return
    free = int(procfs.text(_LIMIT)) - int(procfs.text(_IN_USE))
    if needed > free:
        why = f"its contexts take {needed} requests, and {free} are left of the machine's"
        yield Obstacle(0, "asynchronous I/O", why, f"raise {_LIMIT}")
    least = (os.sysconf("SC_NPROCESSORS_CONF") * 4 * 2 + 2) * _EVENT_SIZE + _HEADER.size
    if any(entry.ring_len < -(-least // PAGE_SIZE) * PAGE_SIZE for mm in mms for entry in mm.aios):
        yield Obstacle(0, "asynchronous I/O", "a ring is smaller than this machine, with more processors, makes any", "restore on another")


def as_memory(vmas: Sequence[Any]) -> List[Any]:
    """Return VMAS, of an mm image, with plain memory in place of the rings, to hold what these held."""
    found = []
    for vma in vmas:
        plain = vma
        if vma.status & VMA_AREA_AIORING:
            plain = message("vma_entry")()
            plain.CopyFrom(vma)
            plain.status, plain.flags = VMA_ANON_PRIVATE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        found.append(plain)
    return found


def restore(stub: Tracee, entries: Sequence[Any]) -> None:
    """Make the contexts of ENTRIES; what the rings held lies at their places as plain memory. Raises OSError, RestoreError."""
    for entry in entries:
        old = Ring.read(stub.pid, entry.id, entry.ring_len)
        (reply,) = stub.batch([Call("io_setup", (entry.nr_req, Ref(bytes(8))))])
        reply.check()
        made = int.from_bytes(reply.outs[0], "little")
        if Ring.read(stub.pid, made, entry.ring_len).nr != old.nr:
            raise RestoreError(f"the AIO ring of process {stub.pid} gets another size than it had; restore on the machine of the dump")
        if old.tail or old.head:
            _turn(stub, made, old)
        events = procfs.read_memory(stub.pid, entry.id + _HEADER.size, entry.ring_len - _HEADER.size)
        procfs.write_memory(stub.pid, made + _HEADER.size, events)
        stub.call("mremap", made, entry.ring_len, entry.ring_len, _MREMAP_MAYMOVE | _MREMAP_FIXED, entry.id)


def _turn(stub: Tracee, made: int, wanted: Ring) -> None:
    """Bring the ring MADE to the head and tail WANTED: the kernel moves its tail only for requests that are done.

    So as many are made as events have to go by; a byte written to memory is done at once.
    """
    count = wanted.tail if wanted.tail >= wanted.head else wanted.nr + wanted.tail
    at_once = min(count, wanted.nr - 1)
    size = -(-(_IOCB.size + 8 * at_once + 8) // PAGE_SIZE) * PAGE_SIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    room = stub.call("mmap", 0, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, _NO_FD, 0)
    target = stub.call("memfd_create", b"stillframe\0", 0)
    request = _IOCB.pack(0, 0, 0, _IOCB_CMD_PWRITE, 0, target, room + size - 8, 1, 0, 0, 0, 0)
    procfs.write_memory(stub.pid, room, request + struct.pack("<Q", room) * at_once)
    done = 0
    while done < count:
        done += stub.call("io_submit", made, min(count - done, at_once), room + _IOCB.size)
        procfs.write_memory(stub.pid, made + _HEAD_AT, struct.pack("<I", min(done, wanted.head)))
    stub.call("close", target)
    stub.call("munmap", room, size)
