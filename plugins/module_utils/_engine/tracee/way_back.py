# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The way back of a thread that makes one system call for us, should we die meanwhile.

A batch has memory of its own to come back from; the call that maps that memory has not. So a signal frame is put on the
thread's stack, below what it uses, and the call is made by a `syscall; ret` that the task has mapped: it returns to the C
library's restorer, whose rt_sigreturn brings back the thread's own registers and signal mask. We put back ourselves what
lay there.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple, Optional, Tuple

from ..kernel import procfs
from .arch import x86_64 as arch

_LARGEST_SEARCH = 1 << 21


class Gadgets(NamedTuple):
    """Addresses of instructions that a task has mapped; 0 where there is none."""

    call: int
    """`syscall; ret`"""
    restorer: int
    """What a signal handler returns to: rt_sigreturn."""


def find_gadgets(pid: int) -> Gadgets:
    """Return the instructions that PID has for a way back, the smallest mappings searched first."""
    call = restorer = 0
    areas = [area for area in procfs.maps(pid) if area.perms.startswith("r-x") and area.name != "[vsyscall]"]
    for area in sorted(areas, key=lambda area: area.end - area.start):
        content = procfs.read_memory(pid, area.start, min(area.end - area.start, _LARGEST_SEARCH))
        call = call or _address(area.start, content.find(arch.SYSCALL_RET))
        restorer = restorer or _address(area.start, content.find(arch.RESTORER))
        if call and restorer:
            break
    return Gadgets(call, restorer)


def _address(start: int, offset: int) -> int:
    return start + offset if offset >= 0 else 0


class WayBack:
    """Lies on the stack of a stopped thread while it makes a call; a context manager."""

    def __init__(self, pid: int, call: int, stack: int, address: int = 0, content: bytes = b"") -> None:
        self._pid = pid
        self._address = address
        self._content = content
        self._kept = b""
        self.call = call
        """Address of the instruction that makes the call."""
        self.stack = stack
        """The stack pointer that the thread must have then."""

    def __enter__(self) -> WayBack:
        self._kept = procfs.read_memory(self._pid, self._address, len(self._content))
        procfs.write_memory(self._pid, self._address, self._content)
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(*procfs.GONE):
            procfs.write_memory(self._pid, self._address, self._kept)


def lay(pid: int, gadgets: Gadgets, own: arch.Registers, mask: int, xstate: bytes) -> Optional[WayBack]:
    """Return the way back to the registers OWN and the signal MASK; None where the task has no means or its stack no room for one."""
    content, address, stack = _frame(gadgets, own, mask, xstate)
    area = procfs.area_at(pid, address)
    room = area is not None and own.sp <= area.end and "w" in area.perms
    return WayBack(pid, gadgets.call, stack, address, content) if room and all(gadgets) else None


def _frame(gadgets: Gadgets, own: arch.Registers, mask: int, xstate: bytes) -> Tuple[bytes, int, int]:
    """Return the signal frame for below the stack, its address, and the stack pointer to return by it."""
    size = len(arch.signal_frame(own, mask, xstate, 0)[0])
    address = max(0, own.sp - arch.RED_ZONE - size) & ~63
    frame, returned = arch.signal_frame(own, mask, xstate, address)
    stack = returned - 8  # where the frame has the address that a handler returns to
    at = stack - address
    return frame[:at] + gadgets.restorer.to_bytes(8, "little") + frame[at + 8 :], address, stack
