# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers of a thread, general and extended: core_entry.thread_info (images/core-x86.proto of CRIU).

The extended state is the standard-format XSAVE area (Intel SDM volume 1, 13.4), which ptrace gives and takes as
NT_X86_XSTATE. CRIU keeps each of its components as a list of numbers.
"""

from __future__ import annotations

import struct
from typing import Any, List, Sequence, Tuple

from ..errors import Obstacle, RestoreError, UnsupportedError
from ..kernel import procfs, ptrace
from ..kernel.cpuid import xstate_components
from ..tracee.arch import x86_64 as arch
from ..tracee.tracee import Tracee

_LEGACY = struct.Struct("<4H2Q2I32I64I")  # FXSAVE: cwd swd twd fop rip rdp mxcsr mxcsr_mask st_space xmm_space
_LEGACY_FIELDS = ("cwd", "swd", "twd", "fop", "rip", "rdp", "mxcsr", "mxcsr_mask")
_XSTATE_BV = struct.Struct("<Q")
_XSTATE_BV_AT = 512
_SSE_BIT = 1
_MXCSR_INITIAL = 0x1F80
# XCR0 bit: field of user_x86_xsave_entry and the format of its numbers
_COMPONENTS = {
    2: ("ymmh_space", "I"),
    3: ("bndreg_state", "Q"),
    4: ("bndcsr_state", "Q"),
    5: ("opmask_reg", "Q"),
    6: ("zmm_upper", "Q"),
    7: ("hi16_zmm", "Q"),
    9: ("pkru", "I"),
}
_NAMES = {2: "AVX", 3: "MPX", 4: "MPX", 5: "AVX-512", 6: "AVX-512", 7: "AVX-512", 9: "PKRU", 17: "AMX", 18: "AMX", 19: "APX"}
_CARRIED = 0b11 | sum(1 << bit for bit in _COMPONENTS)
_FIRST_TLS_ENTRY, _TLS_ENTRIES = 12, 3  # arch/x86/include/asm/segment.h
_NO_SYSCALL = (1 << 64) - 1


def of_thread(thread: Tracee) -> Tuple[arch.Registers, bytes]:
    """Return the general registers, such that an interrupted system call is made again, and the XSAVE area.

    Raises UnsupportedError when components are in use that an image has no room for.
    """
    xstate = ptrace.get_regset(thread.tid, ptrace.NT_X86_XSTATE)
    other = in_use(xstate) & ~_CARRIED
    if other:
        remedy = "dump it when it has let go of them"
        raise UnsupportedError([Obstacle(thread.pid, f"registers of thread {thread.tid}", f"{_features(other)} is in use", remedy)])
    registers = thread.registers()
    if arch.goes_on_waiting(registers):
        code = procfs.read_memory(thread.pid, registers.ip - arch.WAIT_CODE_SIZE, arch.WAIT_CODE_SIZE)
        registers = arch.wait_of(registers, code)
    return arch.restarted(registers), xstate


def in_use(xstate: bytes) -> int:
    """Return XSTATE_BV of an XSAVE area: the components that are not in their initial state."""
    return int(_XSTATE_BV.unpack_from(xstate, _XSTATE_BV_AT)[0])


def _features(bits: int) -> str:
    return ", ".join(sorted({_NAMES.get(bit, f"processor state {bit}") for bit in range(64) if bits >> bit & 1}))


def fill(core: Any, registers: arch.Registers, xstate: bytes) -> None:
    """Put the registers of a thread into CORE, a core_entry."""
    core.mtype = core.X86_64
    info = core.thread_info
    for name, value in registers._asdict().items():
        setattr(info.gpregs, name, value)
    info.gpregs.mode = 1  # NATIVE: a task of 64 bits
    for number in range(_FIRST_TLS_ENTRY, _FIRST_TLS_ENTRY + _TLS_ENTRIES):
        tls = info.tls.add(entry_number=number, base_addr=0, limit=0, seg_32bit=False, contents_h=False, contents_l=False)
        tls.read_exec_only, tls.limit_in_pages, tls.seg_not_present, tls.usable = True, False, True, False
    _fill_extended(info.fpregs, xstate)


def _fill_extended(fpregs: Any, xstate: bytes) -> None:
    words = _LEGACY.unpack_from(xstate)
    for name, word in zip(_LEGACY_FIELDS, words):
        setattr(fpregs, name, word)
    fpregs.st_space.extend(words[8:40])
    fpregs.xmm_space.extend(words[40:])
    fpregs.xsave.xstate_bv = in_use(xstate)
    for bit, (offset, size) in xstate_components().items():
        if bit in _COMPONENTS:
            field, word = _COMPONENTS[bit]
            getattr(fpregs.xsave, field).extend(struct.unpack_from(f"<{size // struct.calcsize(word)}{word}", xstate, offset))


def general(core: Any) -> arch.Registers:
    """Return the general registers in CORE, a core_entry, outside of any system call."""
    gpregs = core.thread_info.gpregs
    return arch.Registers(*(getattr(gpregs, name) for name in arch.Registers._fields))._replace(orig_ax=_NO_SYSCALL)


def extended(core: Any, size: int) -> bytes:
    """Return the XSAVE area of SIZE bytes that CORE, a core_entry, describes. Raises RestoreError where it has no place for it."""
    fpregs = core.thread_info.fpregs
    area = bytearray(size)
    words = [getattr(fpregs, name) for name in _LEGACY_FIELDS] + _padded(fpregs.st_space, 32) + _padded(fpregs.xmm_space, 64)
    _LEGACY.pack_into(area, 0, *words)
    used = fpregs.xsave.xstate_bv if fpregs.HasField("xsave") else 0b11
    if fpregs.mxcsr != _MXCSR_INITIAL:
        used |= 1 << _SSE_BIT  # the kernel takes MXCSR only together with SSE (arch/x86/kernel/fpu/xstate.c)
    components = xstate_components()
    for bit, (field, word) in _COMPONENTS.items():
        numbers = getattr(fpregs.xsave, field)
        if used >> bit & 1 and numbers:
            place = components.get(bit)
            if place is None or place.offset + place.size > size or len(numbers) * struct.calcsize(word) > place.size:
                raise RestoreError(f"the processor has no {_NAMES[bit]}, which is in use in the images; restore on one that has it")
            struct.pack_into(f"<{len(numbers)}{word}", area, place.offset, *numbers)
    _XSTATE_BV.pack_into(area, _XSTATE_BV_AT, used & (0b11 | sum(1 << bit for bit in components)))
    return bytes(area)


def _padded(numbers: Sequence[int], count: int) -> List[int]:
    return (list(numbers) + [0] * count)[:count]


def check(pid: int, core: Any) -> List[Obstacle]:
    """Return an obstacle when CORE, a core_entry, is of another architecture, or needs what this processor has not."""
    if core.mtype != core.X86_64 or core.thread_info.gpregs.mode != 1:
        return [Obstacle(pid, "registers", "they are not those of a 64-bit x86 task", "restore on a machine of its architecture")]
    here = 0b11 | sum(1 << bit for bit in xstate_components())
    missing = core.thread_info.fpregs.xsave.xstate_bv & ~here
    if not missing:
        return []
    why = f"{_features(missing)} is in use, and this processor has it not"
    return [Obstacle(pid, "registers", why, "restore on a processor that has it")]


def restore(thread: Tracee, core: Any) -> None:
    """Give THREAD the registers in CORE, a core_entry: it goes on from there. Raises RestoreError, OSError."""
    room = len(ptrace.get_regset(thread.tid, ptrace.NT_X86_XSTATE))
    ptrace.set_regset(thread.tid, ptrace.NT_X86_XSTATE, extended(core, room))
    thread.set_registers(general(core))
