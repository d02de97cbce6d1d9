# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""ptrace(2), over python-ptrace's binding: what a seized tracee is asked and told. No policy."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import time
from contextlib import suppress
from typing import List, NamedTuple, Optional, Tuple

with suppress(ImportError):  # who calls the engine looks for its libraries first, and says which one is missing
    from ptrace import PtraceError
    from ptrace.binding import func

# include/uapi/linux/ptrace.h; the requests that python-ptrace 0.9.9 names are taken from there.
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_PEEKSIGINFO = 0x4209
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_SECCOMP_GET_FILTER = 0x420C
PTRACE_SECCOMP_GET_METADATA = 0x420D
PTRACE_GET_RSEQ_CONFIGURATION = 0x420F
PTRACE_PEEKSIGINFO_SHARED = 1
PTRACE_EVENT_STOP = 128
PTRACE_O_EXITKILL = 1 << 20
PTRACE_O_SUSPEND_SECCOMP = 1 << 21
PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, EVENT_EXEC = 1, 2, 3, 4
CHILD_EVENTS = frozenset((PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE))
O_TRACE_CHILDREN = sum(1 << event for event in CHILD_EVENTS)
O_TRACEEXEC = 1 << EVENT_EXEC
O_SYSGOOD = 1

# include/uapi/linux/elf.h
NT_PRSTATUS = 1
NT_X86_XSTATE = 0x202

SIGINFO_SIZE = 128
"""Bytes of a siginfo_t (include/uapi/asm-generic/siginfo.h, SI_MAX_SIZE)."""
_SOCK_FILTER_SIZE, _BPF_MAXINSNS = 8, 4096  # include/uapi/linux/{filter,bpf_common}.h
WALL = 0x40000000  # include/uapi/linux/wait.h
_XSTATE_MAX = 1 << 16
_ERRNO_TOLD = re.compile(r"\berror #(\d+): ")


class Status(NamedTuple):
    """A wait(2) status of a tracee."""

    tid: int
    raw: int

    @property
    def stopped(self) -> bool:
        return os.WIFSTOPPED(self.raw)

    @property
    def signal(self) -> int:
        """The signal of the stop; SIGTRAP | 0x80 for a system-call stop (PTRACE_O_TRACESYSGOOD)."""
        return os.WSTOPSIG(self.raw)

    @property
    def event(self) -> int:
        """The PTRACE_EVENT_… of the stop, 0 for a signal-delivery or system-call stop."""
        return self.raw >> 16


class RseqConfiguration(NamedTuple):
    """struct ptrace_rseq_configuration (Linux 5.13)."""

    pointer: int
    size: int
    signature: int
    flags: int


def _ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    try:
        return int(func.ptrace(request, tid, address, data))
    except PtraceError as error:
        number = _errno(error)
        raise OSError(number, f"ptrace({request:#x}, {tid}): {os.strerror(number)}") from error


def _errno(error: PtraceError) -> int:
    """Return the errno of ERROR: python-ptrace's C extension, which Debian's package has, tells it in the message only."""
    told = _ERRNO_TOLD.search(str(error))
    return error.errno or (int(told.group(1)) if told else 0)


def seize(tid: int, options: int = 0) -> None:
    """Attach to TID without stopping it."""
    _ptrace(PTRACE_SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Ask TID, seized, to stop."""
    _ptrace(PTRACE_INTERRUPT, tid)


def set_options(tid: int, options: int) -> None:
    """Replace the PTRACE_O_… options of TID, stopped."""
    _ptrace(func.PTRACE_SETOPTIONS, tid, 0, options)


def cont(tid: int, signo: int = 0) -> None:
    """Let TID run, delivering SIGNO."""
    _ptrace(func.PTRACE_CONT, tid, 0, signo)


def cont_to_syscall(tid: int) -> None:
    """Let TID run to the next entry into, or exit from, a system call."""
    _ptrace(func.PTRACE_SYSCALL, tid)


def step(tid: int) -> None:
    """Let TID run one instruction."""
    _ptrace(func.PTRACE_SINGLESTEP, tid)


def detach(tid: int, signo: int = 0) -> None:
    """Let TID go, delivering SIGNO."""
    _ptrace(func.PTRACE_DETACH, tid, 0, signo)


def event_message(tid: int) -> int:
    """Return what PTRACE_GETEVENTMSG says: the TID of a new child after a clone event."""
    message = ctypes.c_ulong()
    _ptrace(func.PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(message))
    return message.value


def get_siginfo(tid: int) -> bytes:
    """Return the siginfo_t of the signal that TID stopped for."""
    buffer = ctypes.create_string_buffer(SIGINFO_SIZE)
    _ptrace(func.PTRACE_GETSIGINFO, tid, 0, ctypes.addressof(buffer))
    return buffer.raw


def get_regset(tid: int, kind: int, size: int = _XSTATE_MAX) -> bytes:
    """Return register set KIND (NT_…) of TID, as many bytes as the kernel has of it."""
    buffer = ctypes.create_string_buffer(size)
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), size)
    _ptrace(func.PTRACE_GETREGSET, tid, kind, ctypes.addressof(vector))
    return buffer.raw[: vector[1]]


def set_regset(tid: int, kind: int, content: bytes) -> None:
    """Replace register set KIND (NT_…) of TID by CONTENT."""
    buffer = ctypes.create_string_buffer(content, len(content))
    vector = (ctypes.c_ulong * 2)(ctypes.addressof(buffer), len(content))
    _ptrace(func.PTRACE_SETREGSET, tid, kind, ctypes.addressof(vector))


def get_sigmask(tid: int) -> int:
    """Return the mask of blocked signals of TID: bit n-1 is signal n."""
    mask = ctypes.c_uint64()
    _ptrace(PTRACE_GETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """Replace the mask of blocked signals of TID."""
    buffer = ctypes.c_uint64(mask)
    _ptrace(PTRACE_SETSIGMASK, tid, ctypes.sizeof(buffer), ctypes.addressof(buffer))


def peek_siginfo(tid: int, shared: bool) -> List[bytes]:
    """Return the siginfo_t of each signal that is pending for TID, or for its whole process when SHARED."""
    found: List[bytes] = []
    chunk = 32
    while True:
        buffer = ctypes.create_string_buffer(SIGINFO_SIZE * chunk)
        # struct ptrace_peeksiginfo_args { u64 off; u32 flags; s32 nr; }
        flags = PTRACE_PEEKSIGINFO_SHARED if shared else 0
        args = (ctypes.c_uint64 * 2)(len(found), flags | chunk << 32)
        count = _ptrace(PTRACE_PEEKSIGINFO, tid, ctypes.addressof(args), ctypes.addressof(buffer))
        found += [buffer.raw[n * SIGINFO_SIZE : (n + 1) * SIGINFO_SIZE] for n in range(count)]
        if count < chunk:
            return found


def rseq_configuration(tid: int) -> RseqConfiguration:
    """Return where TID registered its restartable-sequence area; a pointer of 0 when nowhere."""
    fields = (ctypes.c_uint64 * 3)()
    _ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, ctypes.sizeof(fields), ctypes.addressof(fields))
    return RseqConfiguration(fields[0], fields[1] & 0xFFFFFFFF, fields[1] >> 32, fields[2] & 0xFFFFFFFF)


def seccomp_filters(tid: int) -> List[Tuple[bytes, int]]:
    """Return the seccomp filters of TID, each a struct sock_filter[] and its SECCOMP_FILTER_FLAG_…, in the order of their installation.

    Linux 4.16, CONFIG_CHECKPOINT_RESTORE. EACCES without CAP_SYS_ADMIN, and for one who is under seccomp.
    """
    found: List[Tuple[bytes, int]] = []
    program = ctypes.create_string_buffer(_BPF_MAXINSNS * _SOCK_FILTER_SIZE)
    while True:
        try:
            length = _ptrace(PTRACE_SECCOMP_GET_FILTER, tid, len(found), ctypes.addressof(program))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return found
            raise
        metadata = (ctypes.c_uint64 * 2)(len(found), 0)  # struct seccomp_metadata
        _ptrace(PTRACE_SECCOMP_GET_METADATA, tid, ctypes.sizeof(metadata), ctypes.addressof(metadata))
        found.append((ctypes.string_at(program, length * _SOCK_FILTER_SIZE), metadata[1]))


def wait(tid: int) -> Status:
    """Wait until TID changes its state."""
    return Status(*os.waitpid(tid, WALL))


def wait_until(tid: int, deadline: float) -> Optional[Status]:
    """Wait for TID until DEADLINE (time.monotonic()), or return None. SIGCHLD must be blocked: see `Waiting`."""
    while True:
        pid, raw = os.waitpid(tid, WALL | os.WNOHANG)
        if pid:
            return Status(pid, raw)
        left = deadline - time.monotonic()
        if left <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left) is None:
            pid, raw = os.waitpid(tid, WALL | os.WNOHANG)
            return Status(pid, raw) if pid else None


class Waiting:
    """While entered, SIGCHLD is blocked and not ignored, so that `wait_until` can await it."""

    def __init__(self) -> None:
        self._restore: Tuple[object, object] = (None, None)

    def __enter__(self) -> None:
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._restore = (signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD}), handler)

    def __exit__(self, *exc: object) -> None:
        mask, handler = self._restore
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # type: ignore[arg-type]
        signal.signal(signal.SIGCHLD, handler)  # type: ignore[arg-type]
