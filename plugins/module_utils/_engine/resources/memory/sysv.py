# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System V shared memory that the tree has attached, in the IPC namespace of the caller.

A segment outlives who has it attached: after a dump that ends the tree it is there, until it is removed. So a restore takes
the very same one, with the content of the dump, or makes it anew under its id.
images: ipcns-shm-3 (ipc_shm_entry; CRIU has it of IPC namespaces of their own), pagemap-shmem-ID with the content.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache, partial
from typing import Any, Dict, Iterable, Iterator, List, Sequence

from ...errors import Obstacle, RestoreError, UnsupportedError
from ...images.chain import Chain, Extent
from ...images.image import ImagesDir
from ...images.schema import message
from ...images.shared_objects import VMA_AREA_SYSVIPC
from ...kernel import hugetlb, procfs, sysvipc
from ...kernel.pagemap import PAGE_SIZE
from ...kernel.syscall import syscall
from ...kernel.sysvipc import Segment
from ...options import Filled
from ..sysv_objects import ObjectsDump, ObjectsRestore
from .mapping import SYSV_NAME, Mapping
from .shared import SharedObject, extents_of, fill

IMAGE = "ipcns-shm-3"
"""3 is the id of the IPC namespace in the ids of every task (resources/inventory.py)."""

Mappings = Dict[int, Sequence[Mapping]]
"""By process."""


class SysvDump:
    """The segments of a tree while it is dumped. A context manager."""

    def __init__(self) -> None:
        self._attached: Dict[int, int] = {}
        """Our descriptors of the segments, by their ids."""
        self._segments: Dict[int, Segment] = {}
        self._surveys: Mappings = {}
        self._others = ObjectsDump()

    @property
    def warnings(self) -> List[str]:
        """What the caller should know."""
        return self._others.warnings

    def __enter__(self) -> SysvDump:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._attached:
            os.close(self._attached.popitem()[1])

    def add(self, pid: int, mappings: Sequence[Mapping]) -> None:
        """Take note of the segments that PID, which stands still, has attached. Raises OSError."""
        self._surveys[pid] = mappings
        for mapping in mappings:
            shmid = mapping.area.inode
            if mapping.status & VMA_AREA_SYSVIPC and shmid not in self._attached:
                self._segments = self._segments or sysvipc.segments()
                path = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
                self._attached[shmid] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def check(self) -> None:
        """Raise UnsupportedError when something came up meanwhile that cannot be carried; read semaphores and messages. Raises OSError."""
        self._others.collect(list(self._surveys))
        found = list(obstacles(self._surveys))
        if found:
            raise UnsupportedError(found)

    def objects(self) -> List[SharedObject]:
        """Return all segments that were met."""
        return [SharedObject(shmid, local) for shmid, local in self._attached.items()]

    def write(self, images: ImagesDir) -> None:
        """Write what the segments are."""
        if self._attached:
            huge = hugetlb.devices()
            shifts = {shmid: huge.get(os.fstat(local).st_dev, 0) for shmid, local in self._attached.items()}
            images.write(IMAGE, [_entry(self._segments[shmid], shift) for shmid, shift in shifts.items()])
        self._others.write(images)


def obstacles(surveys: Mappings, stopped: bool = True) -> Iterator[Obstacle]:
    """Yield what cannot be carried of the segments of a tree; SURVEYS: the mappings of its processes, the root's first.

    Unless it is STOPPED, processes come and go in it, and others attach what these have attached: then only who is seen outside counts.
    """
    attached = [(pid, mapping) for pid, mappings in surveys.items() for mapping in mappings if mapping.status & VMA_AREA_SYSVIPC]
    if not attached:
        return
    segments = sysvipc.segments()
    outside = cache(partial(_attached_outside, list(surveys)[0]))
    for pid, mapping in attached:
        area, segment = mapping.area, segments.get(mapping.area.inode)
        where = f"mapping {area.start:x}-{area.end:x} ({area.name})"
        if segment is None:
            yield Obstacle(pid, where, "its segment is of another IPC namespace", "run the engine inside it (nsenter)")
        elif area.offset or area.end - area.start != _whole(segment.size, mapping.huge_shift):
            yield Obstacle(pid, where, f"it is a part of segment {segment.id} only", "detach it before the dump")
        elif segment.attachments > sum(other.area.inode == segment.id for _pid, other in attached):
            other = outside(segment.id)
            if other or stopped:
                who = f"process {other}" if other else "a process"
                why = f"segment {segment.id} is attached by {who} outside of the tree too"
                yield Obstacle(pid, where, why, "dump a tree that holds all of them, or detach it there")


def _attached_outside(root: int, shmid: int) -> int:
    """Return a process outside of the tree under ROOT that has segment SHMID attached; 0 when we see none."""
    tree = set(procfs.descendants(root))
    for pid in procfs.processes():
        with suppress(*procfs.GONE, PermissionError):
            attached = pid not in tree and any(area.inode == shmid and area.name.startswith(SYSV_NAME) for area in procfs.maps(pid))
            if attached and pid not in procfs.descendants(root):  # it may have come just now
                return pid
    return 0


def _whole(size: int, huge_shift: int) -> int:
    """Return SIZE bytes rounded up to pages, huge ones where HUGE_SHIFT is not 0."""
    page = 1 << huge_shift if huge_shift else PAGE_SIZE
    return -(-size // page) * page


def _entry(segment: Segment, huge_shift: int) -> Any:
    description = message("ipc_desc_entry")(
        key=segment.key & 0xFFFFFFFF,
        uid=segment.uid,
        gid=segment.gid,
        cuid=segment.cuid,
        cgid=segment.cgid,
        mode=segment.mode,
        id=segment.id,
    )
    entry = message("ipc_shm_entry")(desc=description, size=segment.size, in_pagemaps=True)
    if huge_shift:
        entry.hugetlb_flag = hugetlb.SHM_HUGETLB | hugetlb.encoded(huge_shift)
    return entry


class SysvRestore:
    """Makes the segments of a dump again, or takes those that are still there. A context manager: what it made goes with a failure."""

    def __init__(self, images: ImagesDir) -> None:
        self._entries: List[Any] = images.read(IMAGE) if images.has(IMAGE) else []
        self._made: List[int] = []
        self._others = ObjectsRestore(images)

    def __enter__(self) -> SysvRestore:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._made:
            sysvipc.remove(self._made.pop())
        self._others.undo()

    def check(self) -> Iterator[Obstacle]:
        """Yield the ids and keys that others have."""
        found = sysvipc.segments() if self._entries else {}
        keys = {segment.key: segment.id for segment in found.values() if segment.key != sysvipc.IPC_PRIVATE}
        for entry in self._entries:
            where, other = f"System V shared memory segment {entry.desc.id}", found.get(entry.desc.id)
            remedy = "remove that one (ipcrm), if nobody needs it"
            if other is not None and not _is_same(other, entry):
                yield Obstacle(0, where, "another segment has its id", remedy)
            elif other is not None and other.attachments:
                yield Obstacle(0, where, "processes of this machine have it attached", "end them")
            elif other is None and _key(entry) in keys:
                yield Obstacle(0, where, f"segment {keys[_key(entry)]} has its key", remedy)
        yield from self._others.check()

    def open(self, chain: Chain, filled: Filled) -> None:
        """Make the segments and fill them, from FILLED where that has them, else CHAIN.

        Raises OSError, RestoreError, ChainError, ImagesError.
        """
        if self._entries:
            chain.verify_pages()  # one that is still there is not to lose its content to damaged images
        found = sysvipc.segments() if self._entries else {}
        for entry in self._entries:
            description = entry.desc
            if description.id not in found:
                mode = description.mode & 0o777 | entry.hugetlb_flag
                made = sysvipc.create(description.id, _key(entry), entry.size, mode, (description.cuid, description.cgid))
                self._made.append(made)
                if made != description.id:
                    raise RestoreError(f"System V shared memory segment {description.id} cannot be made: its id is taken; restore again")
                sysvipc.set_owner(made, description.uid, description.gid, description.mode)
            there = filled(description.id)
            if there is None:
                _fill(entry, chain.iterate_extents(f"pagemap-shmem-{description.id}"))
                continue
            try:
                os.ftruncate(there, _whole(entry.size, 0))  # it is read page by page
                _fill(entry, extents_of(there))
            finally:
                os.close(there)
        self._others.open()

    def keep(self) -> None:
        """Let the segments stay: the tree is complete and has them attached."""
        self._made.clear()
        self._others.keep()
        for entry in self._entries:
            if entry.desc.mode & sysvipc.SHM_DEST:
                sysvipc.remove(entry.desc.id)


def _key(entry: Any) -> int:
    """Return the key, a signed number, of ENTRY."""
    return int(entry.desc.key) - (1 << 32 if entry.desc.key >> 31 else 0)


def _is_same(segment: Segment, entry: Any) -> bool:
    """Tell whether SEGMENT, which has the id of ENTRY, is the one that it tells of: it has outlived the tree. Ids count up, by and by."""
    return (segment.key, segment.size, segment.cuid, segment.cgid) == (_key(entry), entry.size, entry.desc.cuid, entry.desc.cgid)


def _fill(entry: Any, extents: Iterable[Extent]) -> None:
    """Give the segment of ENTRY the content that EXTENTS tell, and no other."""
    address = syscall("shmat", entry.desc.id, 0, 0)
    try:
        area = next(area for area in procfs.maps(os.getpid()) if area.start == address)
        local = os.open(f"/proc/self/map_files/{area.start:x}-{area.end:x}", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(local, 0)
            size = _whole(entry.size, hugetlb.shift_of(entry.hugetlb_flag)) if entry.hugetlb_flag else entry.size
            fill(local, size, extents)
        finally:
            os.close(local)
    finally:
        syscall("shmdt", address)
