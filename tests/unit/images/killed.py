# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Work that is killed right before one of the system calls by which it changes what is on disk."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import tempfile
import traceback
from contextlib import contextmanager
from typing import Callable, Iterator, Sequence

from made_dumps import Made

# include/uapi/linux: ptrace.h, prctl.h, seccomp.h, filter.h, bpf_common.h
PTRACE_TRACEME, PTRACE_CONT, PTRACE_SETOPTIONS = 0, 7, 0x4200
PTRACE_O_TRACECLONE, PTRACE_O_TRACESECCOMP, PTRACE_O_EXITKILL = 1 << 3, 1 << 7, 1 << 20
WALL = 0x40000000
STOPPED_BY_SECCOMP = signal.SIGTRAP | 7 << 8
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
SECCOMP_RET_TRACE, SECCOMP_RET_ALLOW = 0x7FF00000, 0x7FFF0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
CHANGES = frozenset((1, 16, 18, 20, 77, 82, 83, 84, 86, 87, 88, 90, 91, 92, 257, 258, 263, 264, 265, 266, 285, 296, 316, 326))
"""write, ioctl, pwrite64, writev, ftruncate, rename, mkdir, rmdir, link, unlink, symlink, chmod, fchmod, chown, openat, mkdirat,
unlinkat, renameat, linkat, symlinkat, fallocate, pwritev, renameat2 and copy_file_range on x86-64."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do WORK in a process that is killed before its STEP-th change to the disk; return whether it came to that."""
    pid = os.fork()
    if not pid:
        _work(work)
    os.waitpid(pid, 0)
    _libc.ptrace(PTRACE_SETOPTIONS, pid, None, PTRACE_O_TRACECLONE | PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL)
    passed, killed, stopped = 0, False, pid
    while True:
        _libc.ptrace(PTRACE_CONT, stopped, None, None)
        stopped, status = os.waitpid(-1, WALL)  # threads of its are waited for too
        if stopped == pid and (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            assert killed or status == 0, f"the work ended with status {status}"
            return killed
        if status >> 8 == STOPPED_BY_SECCOMP:
            if passed == step:
                os.kill(pid, signal.SIGKILL)
                killed = True
            passed += 1


@contextmanager
def in_memory(dumps: Sequence[Made]) -> Iterator[str]:
    """Return a directory with copies of DUMPS, which are side by side, where bringing them to disk costs nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for made in dumps:
            shutil.copytree(made.path, os.path.join(folder, os.path.basename(made.path)), symlinks=True)
        yield folder


def _work(work: Callable[[], object]) -> None:
    status = 1
    try:
        _libc.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        _stop_at_changes()
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _stop_at_changes() -> None:
    """Let this process stop, for its tracer, before each system call of CHANGES."""
    jumps = [(JUMP_IF_EQUAL, len(CHANGES) - number, 0, call) for number, call in enumerate(sorted(CHANGES))]
    lines = [(LOAD_WORD, 0, 0, 0), *jumps, (RETURN, 0, 0, SECCOMP_RET_ALLOW), (RETURN, 0, 0, SECCOMP_RET_TRACE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in lines))
    program = struct.pack("<HxxxxxxQ", len(lines), ctypes.addressof(code))
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp filter")
