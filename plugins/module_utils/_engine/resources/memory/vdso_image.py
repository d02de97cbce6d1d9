# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A vDSO as an ELF image (elf(5)): which functions it has where, and of which build it is.

The image may come from a dump, so nothing in it is believed: what points outside of it raises KernelError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Dict, Iterator, Tuple

from ...errors import KernelError
from ..files.build_id import in_notes

_HEADER = struct.Struct("<16s2HI3QI6H")  # Elf64_Ehdr
_IDENTITY = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_SEGMENT = struct.Struct("<2I6Q")  # Elf64_Phdr
_SYMBOL = struct.Struct("<I2BH2Q")  # Elf64_Sym
_DYNAMIC = struct.Struct("<2Q")  # Elf64_Dyn
_NOTE = struct.Struct("<3I")  # Elf64_Nhdr
_WORD = struct.Struct("<I")
PT_LOAD, PT_DYNAMIC, PT_NOTE = 1, 2, 4
DT_NULL, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_GNU_HASH = 0, 4, 5, 6, 10, 11, 0x6FFFFEF5
_STT_FUNC, _STB_LOCAL = 2, 0
_LONGEST_NAME = 128


@dataclass(frozen=True)
class VdsoImage:
    """The outside of a vDSO. Two that are equal are of the same build."""

    functions: Tuple[Tuple[str, int], ...]
    """Name and offset of each exported function, in the order of the names; some are at one offset."""
    build_id: bytes

    def offsets(self) -> Dict[str, int]:
        """Return the offsets of the functions by name."""
        return dict(self.functions)


def read_image(content: bytes) -> VdsoImage:
    """Return what the vDSO with that CONTENT is. Raises KernelError when it is none."""
    elf = _Elf(content)
    build_id, dynamic = b"", None
    load = None
    for kind, offset, address, size in elf.segments():
        if kind == PT_LOAD and load is None:
            load = address - offset
        elif kind == PT_DYNAMIC and dynamic is None:
            dynamic = elf.dynamic(offset, size)
        elif kind == PT_NOTE:
            build_id = build_id or in_notes(elf.part(offset, size), _NOTE)
    if load is None or dynamic is None:
        raise KernelError("the vDSO is damaged: it has no code or no table of symbols")
    return VdsoImage(tuple(sorted(set(elf.functions(dynamic, load)))), build_id)


class _Elf:
    """Bytes that are said to be an ELF image."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def part(self, offset: int, size: int) -> bytes:
        """Return SIZE bytes at OFFSET. Raises KernelError where they are outside."""
        if not 0 <= offset <= offset + size <= len(self._content):
            raise KernelError(f"the vDSO is damaged: it points at {offset:#x}, outside of its {len(self._content)} bytes")
        return self._content[offset : offset + size]

    def _words(self, offset: int, count: int) -> Tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.part(offset, _WORD.size * count))

    def segments(self) -> Iterator[Tuple[int, int, int, int]]:
        """Yield type, offset, address and size of each segment."""
        fields = _HEADER.unpack(self.part(0, _HEADER.size))
        table, entry, count = fields[5], fields[9], fields[10]
        if not fields[0].startswith(_IDENTITY) or entry != _SEGMENT.size:
            raise KernelError("the vDSO is damaged: it is no ELF image of 64 bits")
        for index in range(count):
            kind, _flags, offset, address, _physical, size, _memory, _align = _SEGMENT.unpack(self.part(table + index * entry, entry))
            yield kind, offset, address, size

    def dynamic(self, offset: int, size: int) -> Dict[int, int]:
        """Return the dynamic section at OFFSET."""
        found: Dict[int, int] = {}
        for tag, value in _DYNAMIC.iter_unpack(self.part(offset, size // _DYNAMIC.size * _DYNAMIC.size)):
            if tag == DT_NULL:
                break
            found.setdefault(tag, value)
        return found

    def functions(self, dynamic: Dict[int, int], load: int) -> Iterator[Tuple[str, int]]:
        """Yield name and offset of each function that others may call; LOAD: address less offset."""
        if any(tag not in dynamic for tag in (DT_STRTAB, DT_SYMTAB, DT_STRSZ)) or dynamic.get(DT_SYMENT) != _SYMBOL.size:
            raise KernelError("the vDSO is damaged: its table of symbols is not whole")
        names = self.part(dynamic[DT_STRTAB] - load, dynamic[DT_STRSZ])
        symbols = self.part(dynamic[DT_SYMTAB] - load, self._count(dynamic, load) * _SYMBOL.size)
        for name, info, _other, section, value, _size in _SYMBOL.iter_unpack(symbols):
            if info & 0xF == _STT_FUNC and info >> 4 != _STB_LOCAL and section:
                self.part(value - load, 1)
                end = names.find(b"\0", name, name + _LONGEST_NAME)
                if end < 0:
                    raise KernelError("the vDSO is damaged: a symbol has no name")
                yield names[name:end].decode("ascii", "replace"), value - load

    def _count(self, dynamic: Dict[int, int], load: int) -> int:
        """Return the number of symbols, which only the hash tables tell."""
        if DT_HASH in dynamic:
            return self._words(dynamic[DT_HASH] - load, 2)[1]
        if DT_GNU_HASH not in dynamic:
            raise KernelError("the vDSO is damaged: its symbols are not counted")
        at = dynamic[DT_GNU_HASH] - load
        buckets, first, filters, _shift = self._words(at, 4)
        at += 4 * _WORD.size + 8 * filters
        last = max(self._words(at, buckets), default=0)
        if last < first:
            return first
        chains = at + buckets * _WORD.size
        while not self._words(chains + (last - first) * _WORD.size, 1)[0] & 1:  # the last of a chain has bit 0
            last += 1
        return last + 1
