# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""x86-64: registers, the loop that walks a table of system calls, and where a `syscall` instruction lies."""

from __future__ import annotations

import struct
from typing import NamedTuple, Tuple

from ...kernel.syscalls_x86_64 import NUMBERS

SYSCALL_INSTRUCTION = b"\x0f\x05"
SYSCALL_RET = b"\x0f\x05\xc3"
_MOV_EAX = b"\xb8"
RESTORER = bytes.fromhex("48c7c00f0000000f05")  # mov rax, 15; syscall: what every C library has, and the unwinder knows it by
RED_ZONE = 128  # bytes below the stack pointer that are in use (System V ABI, AMD64 supplement 3.2.2)

LOOP = bytes.fromhex(
    "4d39ec"  # 0:   cmp  r12, r13      end of the table?
    "7342"  # 3:   jae  47
    "498b0424"  # 5:   mov  rax, [r12]
    "498b7c2408"  # 9:   mov  rdi, [r12+8]
    "498b742410"  # e:   mov  rsi, [r12+16]
    "498b542418"  # 13:  mov  rdx, [r12+24]
    "4d8b542420"  # 18:  mov  r10, [r12+32]
    "4d8b442428"  # 1d:  mov  r8, [r12+40]
    "4d8b4c2430"  # 22:  mov  r9, [r12+48]
    "0f05"  # 27:  syscall
    "4d39fc"  # 29:  cmp  r12, r15      an entry that creates a task?
    "750e"  # 2c:  jne  3c
    "4885c0"  # 2e:  test rax, rax
    "7509"  # 31:  jne  3c
    "31ff"  # 33:  xor  edi, edi      we are the new task, and nobody stopped us:
    "b83c000000"  # 35:  mov  eax, 60       exit
    "0f05"  # 3a:  syscall
    "4989442438"  # 3c:  mov  [r12+56], rax
    "4983c440"  # 41:  add  r12, 64
    "ebb9"  # 45:  jmp  0
    "4c89f4"  # 47:  mov  rsp, r14      the table is done, and nobody stopped us:
    "b80f000000"  # 4a:  mov  eax, 15       rt_sigreturn to where we were
    "0f05"  # 4f:  syscall
)
"""Position-independent. r12 points at the table, r13 behind it; an entry is 64 bytes: number, six arguments, result.
System calls preserve all registers but rax, rcx and r11 (arch/x86/entry/entry_64.S).
The last entry makes the thread stop for its tracer. Should the tracer have died, the thread cures itself: r14 points
at the frame of a signal handler (`signal_frame`) that brings back its own registers; and a task that was created by the
entry that r15 points at ends, instead of running its parent's code."""

ENTRY = struct.Struct("<8Q")
_NO_SYSCALL = (1 << 64) - 1


_AT_SYSINFO_EHDR = 33  # include/uapi/linux/auxvec.h
_VDSO_CALLS = {
    "__vdso_clock_gettime": "clock_gettime",
    "__vdso_clock_getres": "clock_getres",
    "__vdso_gettimeofday": "gettimeofday",
    "__vdso_time": "time",
    "__vdso_getcpu": "getcpu",
}
"""The functions of the vDSO that are system calls with the same arguments (arch/x86/entry/vdso/vdso.lds.S)."""
_FAIL = bytes.fromhex("48c7c0daffffffc3")  # mov rax, -38 (ENOSYS); ret
_CALL = struct.Struct("<cI3s")  # mov eax, number; syscall; ret
_JUMP = struct.Struct("<2sQ2s")  # movabs rax, address; jmp rax


def vdso_address(auxv: bytes) -> int:
    """Return where the program was told that its vDSO is, 0 for nowhere."""
    return next((value for key, value in struct.iter_unpack("<2Q", auxv) if key == _AT_SYSINFO_EHDR), 0)


def vdso_jump(address: int) -> bytes:
    """Return the code that a function of the vDSO becomes so that the one at ADDRESS does its work."""
    return _JUMP.pack(b"\x48\xb8", address, b"\xff\xe0")


def vdso_call(function: str) -> bytes:
    """Return the code that FUNCTION of the vDSO becomes where the kernel has no such function: its system call, or a failure."""
    name = _VDSO_CALLS.get(function if function.startswith("__vdso_") else f"__vdso_{function}")
    if name:
        return _CALL.pack(_MOV_EAX, NUMBERS[name], SYSCALL_RET)
    if function in ("__vdso_getrandom", "getrandom"):  # asked how to use it (r8 is -1), it fails: mov r10, r8; inc r10; jz
        return bytes.fromhex("4d89c2 49ffc2 7408") + _CALL.pack(_MOV_EAX, NUMBERS["getrandom"], SYSCALL_RET) + _FAIL
    return _FAIL


class Registers(NamedTuple):
    """struct user_regs_struct (arch/x86/include/asm/user_64.h), in its order."""

    r15: int
    r14: int
    r13: int
    r12: int
    bp: int
    bx: int
    r11: int
    r10: int
    r9: int
    r8: int
    ax: int
    cx: int
    dx: int
    si: int
    di: int
    orig_ax: int
    ip: int
    cs: int
    flags: int
    sp: int
    ss: int
    fs_base: int
    gs_base: int
    ds: int
    es: int
    fs: int
    gs: int


_LAYOUT = struct.Struct("<27Q")


def unpack(regset: bytes) -> Registers:
    """Return the registers in an NT_PRSTATUS register set."""
    return Registers(*_LAYOUT.unpack_from(regset))


def pack(registers: Registers) -> bytes:
    """Return the NT_PRSTATUS register set that holds REGISTERS."""
    return _LAYOUT.pack(*registers)


def at_syscall(registers: Registers, address: int, number: int, *args: int) -> Registers:
    """Return REGISTERS set to make system call NUMBER by the instruction at ADDRESS."""
    di, si, dx, r10, r8, r9 = (args + (0,) * 6)[:6]
    return registers._replace(ip=address, ax=number, orig_ax=_NO_SYSCALL, di=di, si=si, dx=dx, r10=r10, r8=r8, r9=r9)


def at_loop(registers: Registers, code: int, table: int, end: int, frame: int, creates: bool = False) -> Registers:
    """Return REGISTERS set to run LOOP, which lies at CODE, over the entries from TABLE to END; FRAME as `signal_frame` has it.

    CREATES tells that the first entry creates a task.
    """
    return registers._replace(ip=code, r12=table, r13=end, r14=frame, r15=table if creates else 0, orig_ax=_NO_SYSCALL)


def loop_ended(registers: Registers) -> bool:
    """Tell whether the thread, at LOOP, has made all its system calls."""
    return registers.r12 >= registers.r13 - ENTRY.size


def result(registers: Registers) -> int:
    """Return the result of the system call that just ended, negative for an error."""
    return registers.ax - (1 << 64) if registers.ax >> 63 else registers.ax


# include/uapi/asm-generic/errno.h and include/linux/errno.h: how an interrupted system call tells that it is to be made again
_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND, _ERESTART_RESTARTBLOCK = 512, 513, 514, 516
_TO_BE_RESTARTED = (_ERESTARTSYS, _ERESTARTNOINTR, _ERESTARTNOHAND, _ERESTART_RESTARTBLOCK)
_EINTR = 4
_NEVER_RESTARTED = frozenset(
    NUMBERS[name]
    for name in (
        *("epoll_wait", "epoll_pwait", "epoll_pwait2", "rt_sigtimedwait", "semop", "semtimedop", "io_getevents", "io_pgetevents"),
        *("accept", "accept4", "read", "readv", "recvfrom", "recvmsg", "write", "writev", "sendto", "sendmsg"),  # of sockets with a timeout
    )
)
_RESTART_SYSCALL = NUMBERS["restart_syscall"]
_WAITS = frozenset(NUMBERS[name] for name in ("poll", "nanosleep", "clock_nanosleep", "futex"))
"""All that restart_syscall(2) goes on with: the users of set_restart_fn in the kernel."""
_SYSCALL_LENGTH = len(SYSCALL_INSTRUCTION)
WAIT_CODE_SIZE = 5 + _SYSCALL_LENGTH


def restarted(registers: Registers) -> Registers:
    """Return REGISTERS such that a system call that the stop interrupted is made again, without the kernel's help.

    As arch/x86/kernel/signal.c does it when a thread goes on, but for one that wants restart_syscall(2): what that would
    need is in the kernel only, so the whole wait begins anew; it ends with EINTR where it is not known which one it is.
    """
    if registers.orig_ax >> 63 or -result(registers) not in _TO_BE_RESTARTED:
        return registers
    if registers.orig_ax == _RESTART_SYSCALL:
        return registers._replace(ax=(1 << 64) - _EINTR)
    return made_again(registers)


def goes_on_waiting(registers: Registers) -> bool:
    """Tell whether a wait was interrupted that restart_syscall(2) had gone on with before."""
    return registers.orig_ax == _RESTART_SYSCALL and -result(registers) in _TO_BE_RESTARTED


def wait_of(registers: Registers, code: bytes) -> Registers:
    """Return REGISTERS with the number of the wait that restart_syscall(2) goes on with, as far as CODE tells.

    That is the WAIT_CODE_SIZE bytes before the instruction pointer. The kernel tells the number only until it has made the
    wait go on once, so it is read from the instruction that loaded it: mov eax, imm32 right before the syscall.
    """
    number = int.from_bytes(code[1:5], "little")
    if code[:1] != _MOV_EAX or code[5:] != SYSCALL_INSTRUCTION or number not in _WAITS:
        return registers
    return registers._replace(orig_ax=number)


def never_restarted(registers: Registers) -> bool:
    """Tell whether a system call that ends with EINTR when a thread is only stopped, was (signal(7), last section)."""
    return registers.orig_ax in _NEVER_RESTARTED and result(registers) == -_EINTR


def made_again(registers: Registers) -> Registers:
    """Return REGISTERS such that the system call that has just ended is made again."""
    return registers._replace(ax=registers.orig_ax, ip=registers.ip - _SYSCALL_LENGTH, orig_ax=_NO_SYSCALL)


_FP_XSTATE_MAGIC1, _FP_XSTATE_MAGIC2 = 0x46505853, 0x46505845
_UC_FLAGS = 7  # UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
_SS_INVALID = 0xFF  # sigaltstack(2) refuses it, and rt_sigreturn goes on without touching the alternate stack
_SW_RESERVED = 464  # offset of struct _fpx_sw_bytes in struct _fpstate_64


def signal_frame(registers: Registers, sigmask: int, xstate: bytes, address: int) -> Tuple[bytes, int]:
    """Return the struct rt_sigframe, to lie at ADDRESS, that rt_sigreturn turns into this state, and the stack pointer it wants.

    arch/x86/include/asm/sigframe.h, include/uapi/asm/{sigcontext,ucontext}.h. ADDRESS is a multiple of 64.
    """
    r = restarted(registers)
    features = struct.unpack_from("<Q", xstate, _SW_RESERVED)[0]
    sw_bytes = struct.pack("<IIQI", _FP_XSTATE_MAGIC1, len(xstate) + 4, features, len(xstate))
    state = xstate[:_SW_RESERVED] + sw_bytes + xstate[_SW_RESERVED + len(sw_bytes) :] + struct.pack("<I", _FP_XSTATE_MAGIC2)
    frame_at = address + (len(state) + 63) // 64 * 64
    segments = r.cs & 0xFFFF | (r.gs & 0xFFFF) << 16 | (r.fs & 0xFFFF) << 32 | (r.ss & 0xFFFF) << 48
    general = (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.di, r.si, r.bp, r.bx, r.dx, r.ax, r.cx, r.sp, r.ip, r.flags)
    context = struct.pack("<23Q", *general, segments, 0, 0, sigmask & 0xFFFFFFFF, 0) + struct.pack("<Q", address) + bytes(64)
    ucontext = struct.pack("<QQQiiQ", _UC_FLAGS, 0, 0, _SS_INVALID, 0, 0) + context + struct.pack("<Q", sigmask)
    frame = struct.pack("<Q", 0) + ucontext + bytes(128)
    return state.ljust(frame_at - address, b"\0") + frame, frame_at + 8
