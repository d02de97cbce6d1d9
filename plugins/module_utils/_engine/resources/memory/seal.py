# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sealed mappings: nobody may unmap, move, shrink or protect them any more (mseal(2), Linux 6.10).

images: vma_entry.stillframe.sealed; CRIU has no field for it. A vDSO that the kernel itself has sealed stays where exec put it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, List, Sequence

from ...errors import Obstacle
from ...kernel import procfs
from ...kernel.syscall import syscall
from ...tracee.calls import Call
from .mapping import Mapping

SEALED = "sl"
"""The VmFlag of smaps (Documentation/filesystems/proc.rst)."""
_SPECIAL = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")


def fill(vma: Any, mapping: Mapping) -> None:
    """Put into VMA, a vma_entry, whether MAPPING is sealed."""
    if SEALED in mapping.area.vm_flags and mapping.area.name not in _SPECIAL:
        vma.stillframe.sealed = True


def restore_calls(vmas: Sequence[Any]) -> List[Call]:
    """Return the calls that seal those of VMAS that were: the last that is done to them."""
    return [Call("mseal", (vma.start, vma.end - vma.start, 0)) for vma in vmas if vma.stillframe.sealed]


def check(pid: int, vmas: Sequence[Any]) -> List[Obstacle]:
    """Return what stands in the way of sealing VMAS of PID, and of giving it the vDSO of this kernel."""
    found = []
    if any(vma.stillframe.sealed for vma in vmas) and not _supported():
        found.append(Obstacle(pid, "sealed memory", "this kernel seals none (mseal, Linux 6.10)", "restore on one that does"))
    if _seals_the_vdso():
        why = "this kernel seals the vDSO of every program (CONFIG_MSEAL_SYSTEM_MAPPINGS), which cannot be put in its place then"
        found.append(Obstacle(pid, "vDSO", why, "restore on a kernel without that option"))
    return found


@cache
def _seals_the_vdso() -> bool:
    return any(SEALED in area.vm_flags and area.name == "[vdso]" for area in procfs.smaps(os.getpid()))


def _supported() -> bool:
    try:
        syscall("mseal", 0, 0, 0)  # of nothing: no error
    except OSError:
        return False
    return True
