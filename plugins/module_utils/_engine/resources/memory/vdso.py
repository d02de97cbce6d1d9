# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The vDSO: code of the kernel's in every task, which differs from one build of the kernel to the next, and vvar, its data.

A program keeps the addresses of its functions. A task that was dumped on another build keeps the vDSO that it had, as plain
memory; this kernel's lies elsewhere, and each function of the former jumps to that of the same name in the latter.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ...errors import KernelError, Obstacle, TargetError
from ...images.chain import Extent
from ...images.pagemap import PAGE_SIZE
from ...images.schema import message
from ...kernel import procfs
from ...tracee.arch import x86_64 as arch
from ...tracee.calls import Call
from ...tracee.freeze import Task
from ...tracee.tracee import Tracee
from ...tracee.vdso import inside, places
from .mapping import VMA_AREA_VDSO, VMA_AREA_VVAR
from .vdso_image import VdsoImage, read_image
from .vdso_mark import NOWHERE, SPECIAL_NAMES, VVAR_NAMES, Mark, find

_MREMAP_MAYMOVE, _MREMAP_FIXED, _PROT_NONE = 1, 2, 0
_SPECIAL = VMA_AREA_VDSO | VMA_AREA_VVAR
_REMEDY = "restore it on a kernel of the build that it was dumped on"


@dataclass(frozen=True)
class VdsoParts:
    """Where the special mappings of a task lie: (start, size) by "vdso" or "vvar"; absent ones left out."""

    parts: Dict[str, Tuple[int, int]]

    @staticmethod
    def of_task(pid: int) -> VdsoParts:
        """Return those that the kernel has given to PID."""
        parts: Dict[str, Tuple[int, int]] = {}
        for area in _special(pid):
            name = _name(area)
            start, size = parts.get(name, (area.start, 0))
            parts[name] = start, size + area.end - area.start
        return VdsoParts(parts)

    @staticmethod
    def of_image(vmas: Sequence[Any]) -> VdsoParts:
        """Return those of an mm image."""
        names = {VMA_AREA_VDSO: "vdso", VMA_AREA_VVAR: "vvar"}
        return VdsoParts({name: (vma.start, vma.end - vma.start) for vma in vmas for bit, name in names.items() if vma.status & bit})

    @property
    def sizes(self) -> Dict[str, int]:
        return {name: size for name, (_start, size) in self.parts.items()}


def _special(pid: int) -> List[procfs.Area]:
    return [area for area in procfs.maps(pid) if area.name in SPECIAL_NAMES]


def _name(area: procfs.Area) -> str:
    return "vvar" if area.name in VVAR_NAMES else "vdso"


def check_outside(task: Task) -> None:
    """Raise TargetError when a thread of TASK, which stands still, is in a vDSO that its dump leaves out, or in a jump to that."""
    if find(task.pid, _special(task.pid)) is None:
        return
    ranges = places(task.pid)
    for thread in task.threads:
        if inside(thread.registers().ip, ranges):
            raise TargetError(f"thread {thread.tid} of process {task.pid} is inside the vDSO and does not leave it; dump it again")


def check(pid: int, cores: Sequence[Any], vmas: Sequence[Any], extents: Sequence[Extent]) -> Iterator[Obstacle]:
    """Yield what stands in the way of giving a task with VMAS and the content EXTENTS a vDSO that works here. Raises OSError."""
    try:
        proxy = plan(vmas, extents)
    except KernelError as error:
        yield Obstacle(pid, "vDSO", str(error), _REMEDY)
        return
    own = VdsoParts.of_image(vmas).parts
    for core in cores if proxy else ():
        start, size = own["vdso"]
        if start <= core.thread_info.gpregs.ip < start + size:
            yield Obstacle(pid, "vDSO", "a thread was stopped inside it, and this kernel has a vDSO of another build", _REMEDY)


@dataclass(frozen=True)
class Proxy:
    """A vDSO of another build, to be kept as plain memory."""

    own: VdsoParts
    """Where the task has it."""
    patches: Tuple[Tuple[int, str, int], ...]
    """Address, name and offset in this kernel's vDSO of each function to be replaced; the offset -1 where that has no such one."""

    def code(self, real: int) -> Iterator[Tuple[int, bytes]]:
        """Yield address and new code of each function, with this kernel's vDSO at REAL."""
        for address, name, offset in self.patches:
            yield address, arch.vdso_call(name) if offset < 0 else arch.vdso_jump(real + offset)


def plan(vmas: Sequence[Any], extents: Sequence[Extent]) -> Optional[Proxy]:
    """Return the proxy that a task with VMAS and the content EXTENTS needs, None where the kernel's own vDSO can take its place.

    Raises KernelError when there can be none, OSError.
    """
    own, ours = VdsoParts.of_image(vmas), VdsoParts.of_task(os.getpid())
    if "vdso" not in own.parts:
        return None
    start, size = own.parts["vdso"]
    theirs = read_image(_content(extents, start, size))
    here = read_image(procfs.read_memory(os.getpid(), *ours.parts["vdso"])) if "vdso" in ours.parts else VdsoImage((), b"")
    if theirs == here and all(ours.sizes[name] == length for name, length in own.sizes.items()):
        return None
    return Proxy(own, tuple(_patches(start, size, theirs, here)))


def _patches(start: int, size: int, theirs: VdsoImage, here: VdsoImage) -> Iterator[Tuple[int, str, int]]:
    """Yield the patches of the functions of THEIRS. Raises KernelError when one has no room for it."""
    offsets, known = sorted({offset for _name, offset in theirs.functions} | {size}), here.offsets()
    done = set()
    for name, offset in sorted(theirs.functions, key=lambda function: function[0] not in known):
        if offset in done:
            continue
        code = arch.vdso_jump(0) if name in known else arch.vdso_call(name)
        if offsets[offsets.index(offset) + 1] - offset < len(code):
            raise KernelError(f"its function {name} is too small to be replaced by that of this kernel")
        done.add(offset)
        yield start + offset, name, known.get(name, -1)


def _content(extents: Sequence[Extent], start: int, size: int) -> bytes:
    """Return what EXTENTS hold of the SIZE bytes from START on. What the images lack is zeros. Raises OSError."""
    content = bytearray(size)
    for extent in reversed(extents):  # it lies near the end of the address space
        if extent.start + extent.pages * PAGE_SIZE <= start:
            break
        low, high = max(start, extent.start), min(start + size, extent.start + extent.pages * PAGE_SIZE)
        if low < high:
            with open(extent.path, "rb") as pages:
                pages.seek(extent.offset + low - extent.start)
                part = pages.read(high - low)
            content[low - start : low - start + len(part)] = part
    return bytes(content)


def as_memory(vmas: Sequence[Any]) -> List[Any]:
    """Return VMAS, of an mm image, with the special ones as what a proxy has in their place: plain memory."""
    found = []
    for vma in vmas:
        plain = message("vma_entry")()
        plain.CopyFrom(vma)
        plain.status &= ~_SPECIAL
        found.append(plain if vma.status & _SPECIAL else vma)
    return found


def move(stub: Tracee, target: int) -> None:
    """Move vvar and vDSO of STUB to TARGET, side by side in the order they have. Raises OSError."""
    calls = []
    for area in _special(stub.pid):
        size = area.end - area.start
        calls.append(Call("mremap", (area.start, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, target)))
        target += size
    _carry_out(stub, calls)


def place(stub: Tracee, vmas: Sequence[Any]) -> None:
    """Move vvar and vDSO of STUB to where the task with VMAS had them, or drop them if it had none. Raises OSError."""
    calls = []
    offsets = {name: start for name, (start, _size) in VdsoParts.of_image(vmas).parts.items()}
    for area in _special(stub.pid):
        name, size = _name(area), area.end - area.start
        if name in offsets:
            calls.append(Call("mremap", (area.start, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, offsets[name])))
            offsets[name] += size
        else:
            calls.append(Call("munmap", (area.start, size)))
    _carry_out(stub, calls)


def place_beside(stub: Tracee, proxy: Proxy) -> None:
    """Move vvar and vDSO of STUB, which has all other mappings, to where there is room, and let PROXY's functions jump there.

    Raises OSError.
    """
    size = sum(VdsoParts.of_task(stub.pid).sizes.values())
    if size:
        move(stub, stub.call("mmap", 0, size, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, (1 << 64) - 1, 0))
    real = VdsoParts.of_task(stub.pid).parts
    start = real.get("vdso", (0, 0))[0]
    for address, code in proxy.code(start):
        procfs.write_memory(stub.pid, address, code)
    if start:
        own = proxy.own.parts
        mark = Mark(own["vdso"][0], own.get("vvar", (NOWHERE, 0))[0], real.get("vvar", (NOWHERE, 0))[0])
        procfs.write_memory(stub.pid, start, mark.pack())


def _carry_out(stub: Tracee, calls: Sequence[Call]) -> None:
    stub.moved()
    for reply in stub.batch(calls):
        reply.check()
