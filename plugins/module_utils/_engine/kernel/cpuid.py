# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The processor's own description of its extended state: CPUID leaf 0xD (Intel SDM volume 1, chapter 13; AMD APM volume 3)."""

from __future__ import annotations

import ctypes
import mmap
import struct
from functools import cache
from typing import Dict, NamedTuple, Tuple

_LEAF_XSTATE = 0xD
_FIRST_EXTENDED_FEATURE, _LAST_FEATURE = 2, 62
_CPUID = bytes.fromhex(
    "53"  # push rbx
    "89f8"  # mov  eax, edi
    "89f1"  # mov  ecx, esi
    "4989d0"  # mov  r8, rdx
    "0fa2"  # cpuid
    "418900"  # mov  [r8], eax
    "41895804"  # mov  [r8+4], ebx
    "41894808"  # mov  [r8+8], ecx
    "4189500c"  # mov  [r8+12], edx
    "5b"  # pop  rbx
    "c3"  # ret
)
"""void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t answer[4])"""


class Component(NamedTuple):
    """Where a state component lies in a standard-format XSAVE area, in bytes."""

    offset: int
    size: int


@cache
def xstate_components() -> Dict[int, Component]:
    """Return the user state components that processor and kernel have on, by their bit in XCR0; without x87 (0) and SSE (1).

    Offsets differ between Intel and AMD, so they are asked for, not known. Raises OSError where code may not be mapped.
    """
    low, _ebx, _ecx, high = _cpuid(_LEAF_XSTATE, 0)
    features = low | high << 32
    wanted = (bit for bit in range(_FIRST_EXTENDED_FEATURE, _LAST_FEATURE) if features >> bit & 1)
    return {bit: Component(offset, size) for bit in wanted for size, offset, _c, _d in (_cpuid(_LEAF_XSTATE, bit),)}


def _cpuid(leaf: int, subleaf: int) -> Tuple[int, ...]:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as code:
        code.write(_CPUID)
        anchor = ctypes.c_char.from_buffer(code)
        function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(anchor))
        answer = ctypes.create_string_buffer(16)
        function(leaf, subleaf, ctypes.addressof(answer))
        del anchor  # the mapping cannot be closed while something points into it
    return struct.unpack("<4I", answer.raw)
