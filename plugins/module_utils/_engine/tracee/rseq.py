# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Restartable sequences (rseq(2)): what a stop in the middle of one asks for."""

from __future__ import annotations

import struct

from ..kernel import procfs, ptrace
from .tracee import Tracee

# include/uapi/linux/rseq.h
RSEQ_CS_POINTER = 8
"""Offset of rseq_cs in struct rseq."""
_RSEQ_CS = struct.Struct("<2I3Q")  # struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip


def leave_critical_section(thread: Tracee) -> None:
    """Send THREAD, stopped inside a restartable sequence, to the sequence's abort handler, as the kernel would.

    To be called after the stop and before the first batch: running anything else in the thread makes the kernel forget the
    sequence, and it would go on in its middle. Raises OSError.
    """
    rseq = ptrace.rseq_configuration(thread.tid)
    if not rseq.pointer:
        return
    (section,) = struct.unpack("<Q", procfs.read_memory(thread.pid, rseq.pointer + RSEQ_CS_POINTER, 8))
    if not section:
        return
    _version, _flags, start, length, abort = _RSEQ_CS.unpack(procfs.read_memory(thread.pid, section, _RSEQ_CS.size))
    registers = thread.registers()
    if start <= registers.ip < start + length:
        thread.set_registers(registers._replace(ip=abort))
        procfs.write_memory(thread.pid, rseq.pointer + RSEQ_CS_POINTER, bytes(8))
