# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading the memory of another process, by /proc/PID/mem.

Not by process_vm_readv(2): that pins pages, and of a page that a copy-on-write clone shares the kernel makes a copy to
pin (gup_must_unshare in mm/gup.c, since Linux 5.19). A snapshot that is read so takes as much memory as the process,
and twice the time. This way also reads what the process itself may not.
"""

from __future__ import annotations

import errno
import os
from typing import Iterable, Tuple


class MemoryReader:
    """Reads stretches of memory of one process into a buffer. Lets other threads run meanwhile."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def read_into(self, buffer: memoryview, stretches: Iterable[Tuple[int, int]]) -> int:
        """Fill BUFFER with STRETCHES, (address, bytes) each, one behind the other; return the bytes read.

        Raises OSError: EIO where nothing is mapped, ESRCH or ENOENT when the process is gone.
        """
        memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = 0
            for address, length in stretches:
                end = at + length
                while at < end:
                    got = os.preadv(memory, [buffer[at:end]], address)
                    if not got:  # it has no memory any more
                        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
                    at, address = at + got, address + got
            return at
        finally:
            os.close(memory)
