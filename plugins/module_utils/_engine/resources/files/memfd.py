# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is a file: memfd_create(2), and what mmap(2) makes with MAP_SHARED | MAP_ANONYMOUS.

However many map it, shared or privately, or have it open: it is one object, and is restored once.
images: memfd.img (memfd_inode_entry: name, size, owner, mode, seals), files.img (memfd_file_entry for each open file and each
way of mapping it), pagemap-shmem-SHMID with the content.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from dataclasses import dataclass
from collections.abc import Iterator, Mapping

from ...errors import ImagesError, Obstacle
from ...images.chain import open_chain
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel import hugetlb
from ...kernel.syscall import syscall
from ..memory.shared import SharedObject, fill, new_anonymous
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext
from .status import open_again, set_flags

# include/uapi/linux/memfd.h, fcntl.h
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 0x1, 0x2, 0x10
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL = 0x1
ANONYMOUS = "/dev/zero"
"""The name that the kernel gives to anonymous shared memory (shmem_zero_setup in mm/shmem.c)."""
ANONYMOUS_HUGE = "/anon_hugepage"
"""That of huge pages (hugetlb_file_setup in fs/hugetlbfs/inode.c)."""
_PREFIX, _DELETED = "/memfd:", " (deleted)"
_EINVAL = 22
_FIRST_SHMID = 1 << 31
"""Above every identifier of System V shared memory, whose pagemaps are named alike."""


def device() -> int:
    """Return the st_dev of the filesystem, mounted nowhere, that holds all of it. Raises OSError."""
    fd = syscall("memfd_create", b"stillframe\0", MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def is_memory(link: str, status: os.stat_result) -> bool:
    """Tell whether a file with the path LINK, as /proc shows it, is memory. Huge pages are on other filesystems."""
    named = link.startswith(_PREFIX) or link in (ANONYMOUS + _DELETED, ANONYMOUS_HUGE + _DELETED)
    if not named or not stat.S_ISREG(status.st_mode) or status.st_nlink:
        return False
    return status.st_dev == device() or status.st_dev in hugetlb.devices()


def _name(link: str) -> str:
    plain = link[: -len(_DELETED)] if link.endswith(_DELETED) else link
    return plain[len(_PREFIX) :] if plain.startswith(_PREFIX) else plain


@dataclass(frozen=True)
class _Inode:
    local: int
    """A descriptor of ours, to read it by."""
    entry: Entry
    """Its memfd_inode_entry."""


class MemfdDump(KindDump):
    """Dumps memory files."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._inodes: dict[tuple[int, int], _Inode] = {}

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Return what keeps FILE from being dumped."""
        if file.info.locks:
            why = "the process holds a lock or a lease on it; file locks are not carried yet"
            yield file.obstacle(why, "have the program release the lock")
        try:
            file.link.encode()
        except UnicodeEncodeError:
            yield file.obstacle("its name is not UTF-8, which the images cannot hold", "give it another name")

    def collect(self, description: Description) -> Entry:
        """Return the memfd_file_entry of an open file."""
        file = description.file
        return self.entry(description.file_id, file.local, file.link, file.flags, file.info.pos, description.fown)

    def entry(self, file_id: int, local: int, link: str, flags: int, pos: int, fown: Entry) -> Entry:
        """Return the memfd_file_entry of the memory that our descriptor LOCAL has open, and keep the memory until `close`."""
        inode = self._inode(local, link)
        return message("memfd_file_entry")(id=file_id, flags=flags, pos=pos, fown=fown, inode_id=inode.entry.inode_id)

    def objects(self) -> list[SharedObject]:
        """Return all objects that were met."""
        return [SharedObject(inode.entry.shmid, inode.local, inode.entry) for inode in self._inodes.values()]

    def write(self, images: ImagesDir) -> None:
        """Write what the objects are; their content is written with the memory."""
        if self._inodes:
            images.write("memfd", [inode.entry for inode in self._inodes.values()])

    def close(self) -> None:
        """Drop our descriptors."""
        while self._inodes:
            os.close(self._inodes.popitem()[1].local)

    def _inode(self, local: int, link: str) -> _Inode:
        status = os.fstat(local)
        key = status.st_dev, status.st_ino
        if key not in self._inodes:
            number = len(self._inodes) + 1
            ours = open_again(local)
            entry = message("memfd_inode_entry")(
                name=_name(link),
                uid=status.st_uid,
                gid=status.st_gid,
                size=status.st_size,
                shmid=_FIRST_SHMID + number,
                seals=fcntl.fcntl(ours, F_GET_SEALS),
                inode_id=number,
                mode=status.st_mode,
            )
            shift = hugetlb.devices().get(status.st_dev) if status.st_blksize > mmap.PAGESIZE else 0
            if shift:
                entry.hugetlb_flag = hugetlb.MFD_HUGETLB | hugetlb.encoded(shift)
            self._inodes[key] = _Inode(ours, entry)
        return self._inodes[key]


class MemfdRestore(KindRestore):
    """Makes memory files and fills them."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._unsealed: list[tuple[int, int]] = []

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Return nothing: what they need is memory. Raises ImagesError for a file of no object."""
        inodes = self._inodes()
        for entry in entries.values():
            if entry.inode_id not in inodes:
                raise ImagesError(f"{self.context.images.file('memfd')} has no object {entry.inode_id}; use another copy of the dump")
        return iter(())

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make and fill all objects, and open each as often as it was open."""
        inodes, found = self._inodes(), dict[int, int]()
        for inode_id in sorted({entry.inode_id for entry in entries.values()}):
            alike = {file_id: entry for file_id, entry in entries.items() if entry.inode_id == inode_id}
            found.update(self._open_object(inodes[inode_id], alike))
        return found

    def settle(self) -> None:
        """Seal the objects, now that nothing that a seal forbids is left to be done."""
        for local, seals in self._unsealed:
            fcntl.fcntl(local, F_ADD_SEALS, seals)

    def _open_object(self, inode: Entry, entries: Mapping[int, Entry]) -> dict[int, int]:
        made = self.context.options.filled(inode.shmid)
        if made is None:
            made = make(inode)
            if inode.size:
                fill(made, inode.size, open_chain(self.context.images.path, verify=False).iterate_extents(f"pagemap-shmem-{inode.shmid}"))
        os.fchown(made, inode.uid, inode.gid)
        if inode.HasField("mode"):
            os.fchmod(made, stat.S_IMODE(inode.mode))
        written = [file_id for file_id, entry in entries.items() if entry.flags & os.O_ACCMODE == os.O_RDWR and not entry.flags & os.O_PATH]
        # nothing may have it open for writing that runs a program from it
        first = written[0] if written else 0
        if inode.seals not in (0, F_SEAL_SEAL):
            self._seal(made, inode.seals, later=bool(first))
        found = {file_id: self._reopen(made, entry) for file_id, entry in entries.items() if file_id != first}
        if first:
            found[first] = self.context.keep(made)
        else:
            os.close(made)
        for file_id, entry in entries.items():
            _place(found[file_id], entry)
        return found

    def _seal(self, made: int, seals: int, later: bool) -> None:
        if later:
            self._unsealed.append((self.context.keep(os.dup(made)), seals))
        else:
            fcntl.fcntl(made, F_ADD_SEALS, seals)

    def _reopen(self, made: int, entry: Entry) -> int:
        flags = entry.flags & (os.O_ACCMODE | os.O_PATH)
        return self.context.keep(os.open(f"/proc/self/fd/{made}", flags | os.O_CLOEXEC))

    def _inodes(self) -> dict[int, Entry]:
        images = self.context.images
        found: list[Entry] = list(images.read("memfd")) if images.has("memfd") else []
        return {inode.inode_id: inode for inode in found}


def make(inode: Entry) -> int:
    """Return a descriptor of a new, empty object like INODE, a memfd_inode_entry; its owner and seals are for later. Raises OSError."""
    if inode.name == ANONYMOUS and inode.seals == F_SEAL_SEAL:
        return new_anonymous(inode.size)
    if inode.name == ANONYMOUS_HUGE and inode.seals == F_SEAL_SEAL and inode.hugetlb_flag:
        return new_anonymous(inode.size, hugetlb.MAP_HUGETLB | hugetlb.encoded(hugetlb.shift_of(inode.hugetlb_flag)))
    flags = inode.hugetlb_flag | MFD_CLOEXEC | (0 if inode.seals == F_SEAL_SEAL else MFD_ALLOW_SEALING)
    name = inode.name.encode() + b"\0"
    try:
        return syscall("memfd_create", name, flags | MFD_EXEC)
    except OSError as error:
        if error.errno != _EINVAL:
            raise
        return syscall("memfd_create", name, flags)  # before Linux 6.3, where all can be executed


def _place(local: int, entry: Entry) -> None:
    if not entry.flags & os.O_PATH:
        set_flags(local, entry.flags)
        if entry.pos:
            os.lseek(local, entry.pos, os.SEEK_SET)


MEMFDS = Kind("MEMFD", "memfd", lambda file: is_memory(file.link, file.stat), MemfdDump, MemfdRestore)
