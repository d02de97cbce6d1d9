# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of anonymous memory (PR_SET_VMA_ANON_NAME, CONFIG_ANON_VMA_NAME): [anon:NAME] in maps, [anon_shmem:NAME] of what is shared.

images: vma_entry.stillframe.name; CRIU has no field for it. They are there to be looked at: a kernel without them drops them.
"""

from __future__ import annotations

import re
from typing import Any, List, Sequence

from ...kernel.prctl import PR_SET_VMA, PR_SET_VMA_ANON_NAME
from ...tracee.calls import Call
from .mapping import Mapping

_NAMED = re.compile(r"\[anon(?:_shmem)?:(.*)\]", re.DOTALL)


def fill(vma: Any, mapping: Mapping) -> None:
    """Put the name of MAPPING into VMA, a vma_entry, if it has one."""
    named = _NAMED.fullmatch(mapping.area.name)
    if named:
        vma.stillframe.name = named[1]


def restore_calls(vmas: Sequence[Any]) -> List[Call]:
    """Return the calls that name those of VMAS that had a name; none of them must succeed."""
    return [
        Call("prctl", (PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma.start, vma.end - vma.start, vma.stillframe.name.encode() + b"\0"))
        for vma in vmas
        if vma.stillframe.name
    ]
