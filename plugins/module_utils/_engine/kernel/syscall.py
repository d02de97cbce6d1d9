# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw system calls of our own process, for what Python's os module does not offer."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Mapping, Union

from .syscalls_x86_64 import NUMBERS as X86_64

_TABLES: Mapping[str, Mapping[str, int]] = {"x86_64": X86_64}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

Argument = Union[int, bytes, "ctypes.Array[ctypes.c_char]"]


def number(name: str) -> int:
    """Return the number of system call NAME on this machine's architecture."""
    return _TABLES[platform.machine()][name]


def syscall(name: str, *args: Argument) -> int:
    """Make system call NAME and return its result.

    Integers are passed as 64-bit values; bytes and ctypes buffers as pointers to their content.
    Raises OSError with the kernel's errno.
    """
    words = [ctypes.c_long(_signed(arg)) if isinstance(arg, int) else arg for arg in args]
    ctypes.set_errno(0)
    result: int = _libc.syscall(ctypes.c_long(number(name)), *words)
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")
    return result


def _signed(word: int) -> int:
    """Return WORD, an unsigned or signed 64-bit value, as ctypes wants a c_long."""
    return word - (1 << 64) if word >= 1 << 63 else word
