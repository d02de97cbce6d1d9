# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Locked memory: mlock2(2), and what mlockall(2) has to be locked as it is mapped (MCL_FUTURE), each also page by page (…_ONFAULT).

No call tells of MCL_FUTURE, but a mapping made after it is locked (VmFlags lo, lf of smaps): the scratch mapping of our batches.
images: vma_entry.flags (MAP_LOCKED); where CRIU has no field, vma_entry.stillframe.lock_on_fault and
task_core_entry.stillframe.lock_future.
"""

from __future__ import annotations

from typing import Any, List, Sequence

from ...kernel import procfs
from ...tracee.calls import Call
from ...tracee.tracee import Tracee
from .mapping import MAP_LOCKED, VMA_AREA_GUARD, VMA_AREA_VDSO, VMA_AREA_VVAR, Mapping

MLOCK_ONFAULT = 1
MCL_FUTURE, MCL_ONFAULT = 2, 4
"""include/uapi/asm-generic/mman.h"""
_LOCKED, _ON_FAULT = "lo", "lf"
_SPECIAL = VMA_AREA_VDSO | VMA_AREA_VVAR | VMA_AREA_GUARD


def fill(vma: Any, mapping: Mapping) -> None:
    """Put into VMA, a vma_entry, whether pages of MAPPING are locked only once they are touched."""
    if _ON_FAULT in mapping.area.vm_flags:
        vma.stillframe.lock_on_fault = True


def future(leader: Tracee) -> int:
    """Return the MCL_… flags for what the process of LEADER will map, 0 for none; its scratch mapping is there. Raises OSError."""
    scratch = leader.space.scratch
    if scratch is None or procfs.status(leader.pid).get("VmLck", "0 kB").split()[0] == "0":
        return 0  # so the scratch mapping is not locked: spares the kernel's walk through all page tables
    flags = next(area.vm_flags for area in procfs.smaps(leader.pid) if area.start <= scratch.address < area.end)
    return (MCL_FUTURE if _LOCKED in flags else 0) | (MCL_ONFAULT if _ON_FAULT in flags else 0)


def restore(stub: Tracee, vmas: Sequence[Any]) -> None:
    """Lock those of VMAS, now filled in, that were. Raises OSError.

    Pages that cannot be there, of PROT_NONE, behind the end of a file, or a guard, have mlock(2) fail when all is locked.
    """
    locked = [vma for vma in vmas if vma.flags & MAP_LOCKED and not vma.status & _SPECIAL]
    for reply in stub.batch([Call("mlock2", (vma.start, vma.end - vma.start, MLOCK_ONFAULT)) for vma in locked]):
        reply.check()
    stub.batch([Call("mlock2", (vma.start, vma.end - vma.start, 0)) for vma in locked if not vma.stillframe.lock_on_fault])


def restore_future(tc: Any) -> List[Call]:
    """Return the call that has all be locked that is mapped from then on, if TC, a task_core_entry, asks for it."""
    return [Call("mlockall", (tc.stillframe.lock_future,))] if tc.stillframe.lock_future else []
