# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls to be made by a tracee, and what they answered."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import List, Sequence, Tuple, Union

from ..kernel.syscall import number
from .arch import x86_64 as arch


@dataclass(frozen=True)
class Out:
    """An argument that points at SIZE bytes for the kernel to fill in."""

    size: int


@dataclass(frozen=True)
class Ref:
    """An argument that points at CONTENT, which the kernel may change and which is read back."""

    content: bytes


@dataclass(frozen=True)
class Struct:
    """An argument that points at CONTENT, in which the word at each offset of POINTERS points at bytes of its own."""

    content: bytes
    pointers: Tuple[Tuple[int, bytes], ...]


Argument = Union[int, bytes, Out, Ref, Struct]


@dataclass(frozen=True)
class Call:
    """One system call. Bytes are copied to the tracee and passed as a pointer."""

    name: str
    args: Tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Reply:
    """The result of a system call, a negative errno for an error, and what its Out and Ref arguments hold now."""

    call: Call
    value: int
    outs: Tuple[bytes, ...]

    def check(self) -> int:
        """Return the result, or raise OSError."""
        if -4096 < self.value < 0:
            raise OSError(-self.value, f"{self.call.name} in the task: {os.strerror(-self.value)}")
        return self.value


class Table:
    """Lays out calls for the batch loop: the entries first, what they point at behind them."""

    def __init__(self, calls: Sequence[Call], address: int) -> None:
        self.calls = tuple(calls)
        self.address = address
        self.end = address + len(self.calls) * arch.ENTRY.size
        self._outs: List[List[Tuple[int, int]]] = []
        self._data = bytearray()

    def pack(self) -> bytes:
        """Return the bytes that are to lie at the table's address."""
        entries = b"".join(self._entry(call) for call in self.calls)
        return entries + bytes(self._data)

    def _entry(self, call: Call) -> bytes:
        outs: List[Tuple[int, int]] = []
        words = [self._word(arg, outs) for arg in call.args]
        self._outs.append(outs)
        return arch.ENTRY.pack(number(call.name), *(words + [0] * (6 - len(words))), 0)

    def _word(self, arg: Argument, outs: List[Tuple[int, int]]) -> int:
        if isinstance(arg, int):
            return arg & (1 << 64) - 1
        if isinstance(arg, Struct):
            content = bytearray(arg.content)
            for at, pointee in arg.pointers:
                struct.pack_into("<Q", content, at, self._place(pointee))
            return self._place(bytes(content))
        if isinstance(arg, bytes):
            return self._place(arg)
        place = self._place(arg.content if isinstance(arg, Ref) else bytes(arg.size))
        outs.append((place - self.end, len(arg.content) if isinstance(arg, Ref) else arg.size))
        return place

    def _place(self, content: bytes) -> int:
        """Put CONTENT behind the entries and return its address."""
        address = self.end + len(self._data)
        self._data += content + bytes(-len(content) % 16)
        return address

    def replies(self, memory: bytes) -> List[Reply]:
        """Return the answers, from the MEMORY at the table's address after the run."""
        base = self.end - self.address
        found = []
        for index, (call, outs) in enumerate(zip(self.calls, self._outs)):
            (value,) = struct.unpack_from("<q", memory, (index + 1) * arch.ENTRY.size - 8)
            found.append(Reply(call, value, tuple(memory[base + at : base + at + size] for at, size in outs)))
        return found


def footprint(call: Call) -> int:
    """Return an upper bound of the bytes that CALL takes in a table."""
    return arch.ENTRY.size + sum(_size(arg) for arg in call.args)


def _size(arg: Argument) -> int:
    if isinstance(arg, int):
        return 0
    if isinstance(arg, bytes):
        return len(arg) + 16
    if isinstance(arg, Out):
        return arg.size + 16
    pointees = arg.pointers if isinstance(arg, Struct) else ()
    return len(arg.content) + 16 + sum(len(pointee) + 16 for _at, pointee in pointees)
