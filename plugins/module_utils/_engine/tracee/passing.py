# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that is there for a moment, so that something can refer to it that has outlived the real one."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ..kernel.prctl import PR_SET_PDEATHSIG
from ..kernel.syscall import syscall
from .tracee import CLONE_ARGS_SET_TID, clone_args


@contextmanager
def passing_process(pid: int = 0) -> Iterator[int]:
    """Have a child that does nothing, under number PID when one is given; it has ended and is reaped when the block is left.

    OSError: EEXIST when the number is taken (clone3(2), set_tid).
    """
    number = ctypes.create_string_buffer(struct.pack("<i", pid), 4)
    args = bytearray(clone_args(0, signal.SIGCHLD))
    struct.pack_into("<QQ", args, CLONE_ARGS_SET_TID, *((ctypes.addressof(number), 1) if pid else (0, 0)))
    child = syscall("clone3", bytes(args), len(args))
    if child == 0:
        syscall("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        while True:
            signal.pause()  # we are the child, a copy of this very program: nothing of it may run
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
