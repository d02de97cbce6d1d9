# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes and memory to be probed."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from typing import NoReturn


class Specimen:
    """A child process that waits. It ends with the context, or when we end."""

    def __init__(self) -> None:
        self.pid = 0
        self._lifeline = -1

    def __enter__(self) -> Specimen:
        ours, theirs = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _await_end(ours, theirs)
        os.close(ours)
        self._lifeline = theirs
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lifeline)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _await_end(lifeline: int, theirs: int) -> NoReturn:
    """Wait, in the child, until no one holds the other end of LIFELINE."""
    os.close(theirs)
    os.read(lifeline, 1)
    os._exit(0)


class Pages:
    """Private anonymous memory of ours, each page of it written to."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(count):
            self.write(page)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.end = self.start + len(self._memory)

    def write(self, page: int) -> None:
        """Change page number PAGE."""
        self._memory[page * mmap.PAGESIZE] = (self._memory[page * mmap.PAGESIZE] + 1) % 256
