# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The GNU build-id of an ELF file (elf(5), NT_GNU_BUILD_ID), which CRIU keeps of the files it maps or opens."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

ELFCLASS32 = 1
ELFCLASS64 = 2
ELFDATA2LSB = 1
PT_NOTE = 4
NT_GNU_BUILD_ID = 3

_IDENT = 16
_EHDR = {ELFCLASS32: "HHIIIIIHHHHHH", ELFCLASS64: "HHIQQQIHHHHHH"}
_PHDR = {ELFCLASS32: "IIIIIIII", ELFCLASS64: "IIQQQQQQ"}
_E_PHOFF, _E_PHENTSIZE, _E_PHNUM = 4, 8, 9
_P_TYPE = 0
_P_OFFSET = {ELFCLASS32: 1, ELFCLASS64: 2}
_P_FILESZ = {ELFCLASS32: 4, ELFCLASS64: 5}
_MAX_NOTES = 1 << 16
"""More than any linker writes; keeps a damaged file from being read whole."""
_WORD = struct.Struct("=I")


def build_id(fd: int) -> bytes:
    """Return the build-id of the file that FD has open for reading, empty when it has none or is no ELF file."""
    ident = os.pread(fd, _IDENT, 0)
    if len(ident) < _IDENT or ident[:4] != b"\x7fELF" or ident[4] not in _EHDR:
        return b""
    elf_class, order = ident[4], "<" if ident[5] == ELFDATA2LSB else ">"
    header = struct.Struct(order + _EHDR[elf_class])
    data = os.pread(fd, header.size, _IDENT)
    if len(data) < header.size:
        return b""
    fields = header.unpack(data)
    program = struct.Struct(order + _PHDR[elf_class])
    for index in range(fields[_E_PHNUM]):
        segment = _part(fd, program.size, fields[_E_PHOFF] + index * fields[_E_PHENTSIZE])
        if len(segment) < program.size:
            break
        values = program.unpack(segment)
        if values[_P_TYPE] == PT_NOTE:
            notes = _part(fd, min(values[_P_FILESZ[elf_class]], _MAX_NOTES), values[_P_OFFSET[elf_class]])
            found = in_notes(notes, struct.Struct(order + "III"))
            if found:
                return found
    return b""


def _part(fd: int, size: int, offset: int) -> bytes:
    """Return SIZE bytes at OFFSET, as many as there are: a damaged file may name places that no file can have."""
    return os.pread(fd, size, offset) if offset < os.fstat(fd).st_size else b""


def in_notes(notes: bytes, header: struct.Struct) -> bytes:
    """Return the build-id in NOTES, whose entries begin with HEADER (three words); empty when there is none."""
    offset = 0
    while offset + header.size <= len(notes):
        name_size, size, kind = header.unpack_from(notes, offset)
        name = offset + header.size
        start = name + (name_size + 3 & ~3)
        if kind == NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[start : start + size]
        offset = start + (size + 3 & ~3)
    return b""


def to_words(value: bytes) -> list[int]:
    """Return a build-id as reg_file_entry.build_id has it: 32-bit words of this machine, the last filled up with zeros."""
    value += bytes(-len(value) % _WORD.size)
    return [word for (word,) in _WORD.iter_unpack(value)]


def from_words(words: Sequence[int]) -> bytes:
    """Return the bytes of reg_file_entry.build_id."""
    return b"".join(_WORD.pack(word) for word in words)
