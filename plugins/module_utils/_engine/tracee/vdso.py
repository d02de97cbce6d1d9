# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread that is stopped inside the vDSO: at a restore on another kernel there may be other code at that place."""

from __future__ import annotations

import signal
import struct
from contextlib import suppress
from typing import List, Sequence, Tuple

from ..kernel import procfs, ptrace
from .arch import x86_64 as arch
from .tracee import Tracee

Range = Tuple[int, int]
_MOST_STEPS = 2000
"""More than any function of it takes, but for one that is asked for a lot of random bytes."""
_OF_INSTRUCTIONS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)
"""Were they blocked, the kernel would end a process that has a handler for them (force_sig_info_to_task)."""
_OTHERS = ((1 << 64) - 1) & ~sum(1 << signo - 1 for signo in _OF_INSTRUCTIONS)
_SI_CODE = struct.Struct("<8xi")


def places(pid: int) -> List[Range]:
    """Return where PID has a vDSO: where the kernel has put one, and where the program was told that it is."""
    known = arch.vdso_address(procfs.auxv(pid))
    return [(area.start, area.end) for area in procfs.maps(pid) if area.name == "[vdso]" or known and area.start == known]


def leave_vdso(thread: Tracee, ranges: Sequence[Range]) -> None:
    """Let a stopped THREAD that is inside one of RANGES run on to the end of the function there, if that is near."""
    registers = thread.registers()
    if not inside(registers.ip, ranges) or arch.restarted(registers) != registers:
        return
    mask = ptrace.get_sigmask(thread.tid)
    try:
        ptrace.set_sigmask(thread.tid, mask | _OTHERS)
        for _time in range(_MOST_STEPS):
            if not _step(thread) or not inside(thread.registers().ip, ranges):
                return
    finally:
        with suppress(ProcessLookupError):  # it was killed
            ptrace.set_sigmask(thread.tid, mask)


def inside(address: int, ranges: Sequence[Range]) -> bool:
    """Tell whether ADDRESS lies in one of RANGES."""
    return any(start <= address < end for start, end in ranges)


def _step(thread: Tracee) -> bool:
    """Let THREAD make one instruction; return False when that has failed: it is to fail again, for all to see, when the thread goes on."""
    ptrace.step(thread.tid)
    status = thread.await_stop()
    if status.event:
        return True
    if _SI_CODE.unpack_from(ptrace.get_siginfo(thread.tid))[0] <= 0:
        thread.resume_signal = status.signal  # somebody sent it
        return True
    return status.signal == signal.SIGTRAP
