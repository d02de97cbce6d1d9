# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The mark by which it is known that a task has a vDSO of another kernel build, whose functions jump into this kernel's.

CRIU puts it at the start of this kernel's vDSO, where nobody looks for an ELF header any more (struct vdso_mark of its
parasite-vdso.h), and so do we: a later dump, by whichever, leaves out what the kernel gives and takes the other for the task's.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Iterable, Iterator, Optional

from ...kernel import procfs
from ...kernel.procfs import Area

VVAR_NAMES = ("[vvar]", "[vvar_vclock]")
SPECIAL_NAMES = (*VVAR_NAMES, "[vdso]")
_MARK = struct.Struct("<8s4Q")
_SIGNATURE, _VERSION = b"CRIUvDSO", 3
NOWHERE = (1 << 64) - 1


@dataclass(frozen=True)
class Mark:
    """Where the task's own vDSO and vvar lie, as the program knows them, and the vvar of this kernel; NOWHERE for none."""

    vdso: int
    vvar: int
    real_vvar: int

    def pack(self) -> bytes:
        """Return the bytes for the start of this kernel's vDSO."""
        return _MARK.pack(_SIGNATURE, self.vdso, _VERSION, self.vvar, self.real_vvar)

    def own(self, areas: Iterable[Area]) -> Iterator[Area]:
        """Yield those of AREAS that are the program's, cut where its vDSO and vvar begin: the kernel may have joined them with others."""
        for area in areas:
            if area.name in SPECIAL_NAMES:
                continue
            for cut in sorted({self.vvar, self.vdso}):
                if area.start < cut < area.end:
                    yield area._replace(end=cut)
                    area = area._replace(start=cut)
            yield area


def find(pid: int, areas: Iterable[Area]) -> Optional[Mark]:
    """Return the mark in the vDSO of PID, which has AREAS; None when it is what the program began with. Raises OSError."""
    for area in areas:
        if area.name == "[vdso]":
            content = _start(pid, area)
            if len(content) < _MARK.size:
                continue
            signature, vdso, version, vvar, real_vvar = _MARK.unpack(content)
            if (signature, version) == (_SIGNATURE, _VERSION):
                return Mark(vdso, vvar, real_vvar)
    return None


def _start(pid: int, area: Area) -> bytes:
    """Return the bytes at the start of AREA, none where a running process has just unmapped it, or has ended."""
    try:
        return procfs.read_memory(pid, area.start, _MARK.size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""
