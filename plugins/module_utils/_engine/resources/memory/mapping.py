# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Mappings: what /proc/PID/smaps shows becomes vma_entry messages (images/vma.proto), and those become mappings again."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ...errors import Obstacle, RestoreError
from ...images.schema import message
from ...images.shared_objects import VMA_ANON_SHARED, VMA_AREA_SYSVIPC
from ...kernel import hugetlb, procfs
from ...kernel.procfs import Area
from ...kernel.sysvipc import SHM_EXEC, SHM_RDONLY
from ...tracee.calls import Call
from ..files import memfd
from ..files.dump import FilesDump
from . import packet_ring, vdso_mark
from .vdso_mark import VVAR_NAMES

# CRIU's status bits of a vma_entry (criu/include/image.h)
VMA_AREA_REGULAR = 1 << 0
VMA_AREA_STACK = 1 << 1
VMA_AREA_VSYSCALL = 1 << 2
VMA_AREA_VDSO = 1 << 3
VMA_AREA_HEAP = 1 << 5
VMA_FILE_PRIVATE = 1 << 6
VMA_FILE_SHARED = 1 << 7
VMA_ANON_PRIVATE = 1 << 9
VMA_AREA_VVAR = 1 << 12
VMA_AREA_SOCKET = 1 << 11
VMA_AREA_AIORING = 1 << 13
VMA_AREA_MEMFD = 1 << 14
VMA_AREA_GUARD = 1 << 16
_RESTORABLE = VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE | VMA_AREA_SOCKET

# include/uapi/asm-generic/mman.h, mman-common.h
MAP_DROPPABLE = 0x08  # a type, as MAP_PRIVATE is: Linux 6.11
MAP_GROWSDOWN = 0x0100
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MADV_DONTFORK, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_WIPEONFORK, MADV_POPULATE_WRITE = 10, 14, 15, 18, 23
_FLAG_OF = {"dp": MAP_DROPPABLE, "gd": MAP_GROWSDOWN, "lo": MAP_LOCKED, "nr": MAP_NORESERVE}
_ADVICE_OF = {"sr": 2, "rr": 1, "dc": MADV_DONTFORK, "dd": 16, "mg": 12, "hg": MADV_HUGEPAGE, "nh": MADV_NOHUGEPAGE, "wf": MADV_WIPEONFORK}
"""VmFlags of smaps (Documentation/filesystems/proc.rst) and the madvise(2) advice that sets each."""
_LASTING = frozenset(_ADVICE_OF) | {"gd", "nr", "sl"}
"""The VmFlags that belong into a dump and that fork(2) copies."""
EARLY_ADVICE = (MADV_HUGEPAGE, MADV_NOHUGEPAGE)
"""What decides the size of the pages that a mapping is filled with."""
_PROT_OF = {"r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "x": mmap.PROT_EXEC}
SYSV_NAME = "/SYSV"
"""What maps shows of segments of System V shared memory (newseg in ipc/shm.c)."""
_AIO_NAME, _SOCKET_NAME = "/[aio]", "socket:["
_HUGE_NAME = "/anon_hugepage"
MEMORY_NAMES = ("/memfd:", "/dev/zero (deleted)", "[anon_shmem:", _HUGE_NAME)
"""What maps shows of memory that is a file: memfd_create(2), MAP_SHARED | MAP_ANONYMOUS, the same with a name (PR_SET_VMA_ANON_NAME)."""
_HUGE_NAMES = ("/memfd:", SYSV_NAME, _HUGE_NAME)
_NO_FD = (1 << 64) - 1


@dataclass(frozen=True)
class Mapping:
    """A mapping as smaps shows it and as the image has it."""

    area: Area
    status: int
    """VMA_… bits."""
    huge_shift: int = 0
    """The binary logarithm of the size of its pages where they are huge ones of hugetlbfs, else 0."""

    @property
    def start(self) -> int:
        return self.area.start

    @property
    def end(self) -> int:
        return self.area.end

    @property
    def private(self) -> bool:
        return bool(self.status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE))

    @property
    def holds_pages(self) -> bool:
        """Tell whether the pages of this mapping belong to the dump of its task."""
        droppable = "dp" in self.area.vm_flags  # the kernel may drop its content any time
        held = self.private or bool(self.status & VMA_AREA_AIORING)
        return held and not droppable and not self.status & (VMA_AREA_VVAR | VMA_AREA_VSYSCALL)

    @property
    def trackable(self) -> bool:
        """Tell whether writes to it can be told by write-protection: private anonymous memory."""
        special = VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL
        return bool(self.status & VMA_ANON_PRIVATE) and not self.status & special and not self.huge_shift

    @property
    def forked(self) -> bool:
        """Tell whether a copy of the address space by fork(2) has its pages, and keeps them. Of huge pages the pool may run out."""
        return not self.area.vm_flags & {"dc", "wf"} and not self.huge_shift and not self.status & VMA_AREA_AIORING

    @property
    def cloned(self) -> bool:
        """Tell whether the page tables of a copy by fork(2) are the same as this one's: those of the vDSO are made when it is touched."""
        return self.private and self.forked and not self.status & VMA_AREA_VDSO

    @property
    def copied(self) -> bool:
        """Tell whether a copy of the address space by fork(2) has the mapping."""
        return "dc" not in self.area.vm_flags

    def unregistered(self) -> Mapping:
        """Return the same without the flag that it is registered for write-protection: what takes its place would not be."""
        return replace(self, area=self.area._replace(vm_flags=self.area.vm_flags - {"uw"}))

    @property
    def readable(self) -> bool:
        return "r" in self.area.perms


def survey(pid: int) -> List[Mapping]:
    """Return the mappings of PID, vvar pages side by side taken as one, as CRIU does."""
    return _mappings(pid, procfs.smaps(pid))


def survey_again(pid: int, known: Sequence[Mapping]) -> Optional[List[Mapping]]:
    """Return the mappings of PID if /proc/PID/maps still shows those KNOWN from `survey`, else None.

    That spares the kernel's walk through all page tables. Whether the VmFlags are still the same is to be seen by `same_flags`.
    """
    now = _mappings(pid, procfs.maps(pid))
    same = [mapping.area for mapping in now] == [mapping.area._replace(vm_flags=frozenset()) for mapping in known]
    return list(known) if same else None


def same_flags(known: Sequence[Mapping], pid: int, copied: bool) -> bool:
    """Tell whether those of KNOWN that PID has still have the same VmFlags. COPIED: PID is a clone that fork(2) made."""
    now = {mapping.area._replace(vm_flags=frozenset()): mapping.area.vm_flags for mapping in survey(pid)}
    for mapping in known:
        flags = now.get(mapping.area._replace(vm_flags=frozenset()))
        if flags is None:
            if copied and mapping.copied:
                return False
        elif (flags ^ mapping.area.vm_flags) & _LASTING:
            return False
    return True


def _mappings(pid: int, areas: Sequence[Area]) -> List[Mapping]:
    found: List[Mapping] = []
    mark = vdso_mark.find(pid, areas)
    heap, devices = procfs.stat(pid).start_brk, _memory_devices(areas)
    for area in mark.own(areas) if mark else areas:
        kept = {mark.vdso: VMA_AREA_VDSO, mark.vvar: VMA_AREA_VVAR}.get(area.start, 0) if mark else 0
        mapping = Mapping(area, _status(area, heap, devices) | kept, devices.get(area.device, 0))
        if found and mapping.status & found[-1].status & VMA_AREA_VVAR and found[-1].end == area.start:
            mapping = Mapping(found.pop().area._replace(end=area.end), mapping.status)
        found.append(mapping)
    return found


def _memory_devices(areas: Sequence[Area]) -> Dict[str, int]:
    """Return the filesystems of memory that is a file, as maps shows them, with the size of their huge pages, 0 for ordinary ones."""
    found = {memfd.device(): 0}
    if any(area.name.startswith(_HUGE_NAMES) and area.device != _shown(*found) for area in areas):
        found.update(hugetlb.devices())
    return {_shown(device): shift for device, shift in found.items()}


def _shown(device: int) -> str:
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def _status(area: Area, heap: int, devices: Dict[str, int]) -> int:
    if area.name == "[vsyscall]":
        return VMA_AREA_VSYSCALL | VMA_ANON_PRIVATE
    if area.name == "[vdso]":
        return VMA_AREA_REGULAR | VMA_AREA_VDSO | VMA_ANON_PRIVATE
    if area.name in VVAR_NAMES:
        return VMA_AREA_REGULAR | VMA_AREA_VVAR | VMA_ANON_PRIVATE
    if area.shared and area.device in devices and area.name.startswith(SYSV_NAME):
        return VMA_AREA_REGULAR | VMA_ANON_SHARED | VMA_AREA_SYSVIPC
    if area.name.startswith(_AIO_NAME) and area.shared:
        return VMA_AREA_AIORING
    if area.name.startswith(_SOCKET_NAME):
        return VMA_AREA_REGULAR | VMA_AREA_SOCKET
    if area.inode and not (devices.get(area.device) and area.name.startswith(_HUGE_NAME) and not area.shared):
        memory = area.device in devices and area.name.startswith(MEMORY_NAMES)
        return VMA_AREA_REGULAR | (VMA_FILE_SHARED if area.shared else VMA_FILE_PRIVATE) | (VMA_AREA_MEMFD if memory else 0)
    return VMA_AREA_REGULAR | VMA_ANON_PRIVATE | (VMA_AREA_HEAP if area.name == "[heap]" or area.start == heap else 0)


def obstacles(pid: int, mappings: Sequence[Mapping]) -> Iterator[Obstacle]:
    """Yield each mapping of PID that cannot be carried."""
    for mapping in mappings:
        refused = packet_ring.refused(pid, mapping.area) if mapping.status & VMA_AREA_SOCKET else _refused(mapping)
        if refused:
            area = mapping.area
            yield Obstacle(pid, f"mapping {area.start:x}-{area.end:x} ({area.name or 'anonymous'})", *refused)


def _refused(mapping: Mapping) -> Optional[Tuple[str, str]]:
    name, flags = mapping.area.name, mapping.area.vm_flags
    if mapping.status & (VMA_AREA_VVAR | VMA_AREA_VDSO | VMA_AREA_VSYSCALL):
        return None
    for start, why, remedy in (
        ("anon_inode:", "memory of a kernel object cannot be carried", "close it before the dump"),
        ("[uprobes]", "a uprobe is active in it", "end the tracer that set it"),
    ):
        if name.startswith(start):
            return why, remedy
    if flags & {"io", "pf"}:
        return "it maps a device, whose state no dump can hold", "close the device before the dump"
    if "ht" in flags and not mapping.huge_shift:
        return "files of a mounted hugetlbfs are not supported yet", "run it with memfd_create(MFD_HUGETLB) or MAP_HUGETLB"
    if "ss" in flags:
        return "a shadow stack is not supported yet", "run it without user shadow stacks (glibc.cpu.x86_shstk=off)"
    if "sf" in flags:
        return "it is mapped with MAP_SYNC, which is not supported", "map it without MAP_SYNC"
    if flags & {"um", "ui"}:
        return "a userfaultfd of its own handles its faults", "close that userfaultfd before the dump"
    return None


def dump_mappings(pid: int, mappings: Sequence[Mapping], files: FilesDump) -> List[Any]:
    """Return the vma_entry of each of MAPPINGS of PID, their files added to FILES. Raises UnsupportedError, OSError."""
    return [_entry(pid, mapping, files) for mapping in mappings]


def _entry(pid: int, mapping: Mapping, files: FilesDump) -> Any:
    area = mapping.area
    flags = mmap.MAP_SHARED if area.shared else mmap.MAP_PRIVATE
    if mapping.status & VMA_ANON_PRIVATE:
        flags |= mmap.MAP_ANONYMOUS
    if mapping.status & VMA_AREA_SYSVIPC:
        flags |= mmap.MAP_ANONYMOUS  # as CRIU has it
    flags |= sum(_FLAG_OF[flag] for flag in area.vm_flags if flag in _FLAG_OF)
    if mapping.huge_shift:
        flags |= hugetlb.MAP_HUGETLB | hugetlb.encoded(mapping.huge_shift)
    entry = message("vma_entry")(
        start=area.start, end=area.end, pgoff=0, shmid=0, prot=_prot(area), flags=flags, status=mapping.status, fd=-1
    )
    advice = sum(1 << _ADVICE_OF[flag] for flag in area.vm_flags if flag in _ADVICE_OF)
    if advice:
        entry.madv = advice
    if mapping.status & VMA_AREA_SOCKET:
        entry.shmid, entry.pgoff = files.mapped_socket(pid, area.inode), area.offset
    if mapping.status & VMA_AREA_SYSVIPC:
        entry.shmid, entry.fdflags = area.inode, os.O_RDWR if "mw" in area.vm_flags else os.O_RDONLY
    if mapping.status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED):
        access = os.O_RDWR if mapping.status & VMA_FILE_SHARED and "mw" in area.vm_flags else os.O_RDONLY
        entry.shmid, entry.pgoff, entry.fdflags = _add_file(pid, area, access, files), area.offset, access
    return entry


def _prot(area: Area) -> int:
    return sum(bit for letter, bit in _PROT_OF.items() if letter in area.perms)


def _add_file(pid: int, area: Area, access: int, files: FilesDump) -> int:
    path = f"/proc/{pid}/map_files/{area.start:x}-{area.end:x}"
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return files.add_open(fd, os.readlink(path), access)
    finally:
        os.close(fd)


def map_calls(vmas: Sequence[Any], filled: Sequence[bool], local: Callable[[Any], int]) -> List[Call]:
    """Return the calls that make VMAS; FILLED tells which are to be written afterwards; LOCAL gives the task's descriptor of what one maps.

    Those that are to be written are made writable first: `settle_calls` gives them their own protection.
    """
    calls = []
    for vma, written in zip(vmas, filled):
        if vma.status & (VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL | VMA_AREA_GUARD):
            continue
        if not vma.status & _RESTORABLE:
            raise RestoreError(
                f"mapping {vma.start:x}-{vma.end:x} is of a kind (status {vma.status:#x}) that cannot be restored yet; restore it with CRIU"
            )
        if vma.status & VMA_AREA_SYSVIPC:
            calls.append(_attach_call(vma))
            continue
        anonymous = bool(vma.status & VMA_ANON_PRIVATE)
        flags = (vma.flags & ~MAP_LOCKED) | procfs.MAP_FIXED
        if not anonymous:
            flags &= ~mmap.MAP_ANONYMOUS
        if flags & MAP_DROPPABLE:
            flags &= ~mmap.MAP_PRIVATE
        prot = _prot_until_settled(vma, written)
        fd, offset = (_NO_FD, 0) if anonymous else (local(vma), vma.pgoff)
        calls.append(Call("mmap", (vma.start, vma.end - vma.start, prot, flags, fd, offset)))
        calls += [Call("madvise", (vma.start, vma.end - vma.start, advice)) for advice in EARLY_ADVICE if vma.madv >> advice & 1]
    return calls


def _prot_until_settled(vma: Any, written: bool) -> int:
    return int(vma.prot | (mmap.PROT_READ | mmap.PROT_WRITE if written else 0))


def protect_call(vma: Any, written: bool) -> Call:
    """Return the call that gives VMA, which is there already, the protection that `map_calls` would have given it."""
    return Call("mprotect", (vma.start, vma.end - vma.start, _prot_until_settled(vma, written)))


def _attach_call(vma: Any) -> Call:
    """Return the call by which a task attaches the segment of System V shared memory that VMA was, where it had it."""
    writable = vma.fdflags & os.O_ACCMODE == os.O_RDWR if vma.HasField("fdflags") else vma.prot & mmap.PROT_WRITE
    flags = (0 if writable else SHM_RDONLY) | (SHM_EXEC if vma.prot & mmap.PROT_EXEC else 0)
    return Call("shmat", (vma.shmid, vma.start, flags))


def settle_calls(vmas: Sequence[Any], filled: Sequence[bool]) -> List[Call]:
    """Return the calls that give VMAS, now filled in, their protection and advice."""
    calls = []
    for vma, written in zip(vmas, filled):
        if vma.status & (VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_VSYSCALL | VMA_AREA_GUARD):
            continue
        size = vma.end - vma.start
        if vma.status & VMA_AREA_SYSVIPC:
            calls.append(Call("mprotect", (vma.start, size, vma.prot)))
        if written and vma.prot & (mmap.PROT_READ | mmap.PROT_WRITE) != mmap.PROT_READ | mmap.PROT_WRITE:
            calls.append(Call("mprotect", (vma.start, size, vma.prot)))
        late = (advice for advice in range(64) if vma.madv >> advice & 1 and advice not in EARLY_ADVICE)
        calls += [Call("madvise", (vma.start, size, advice)) for advice in late]
    return calls
