# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that the kernel may drop (MAP_DROPPABLE, Linux 6.11): the mapping comes back, its content does not."""

from __future__ import annotations

import sys

import pytest
from _engine.kernel import procfs
from victim import Lab, until

PROGRAM = """
import ctypes, mmap, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, ctypes.c_size_t(65536), 3, 0x8 | mmap.MAP_ANONYMOUS, -1, ctypes.c_size_t(0))
if at == 2**64 - 1:
    sys.exit("no MAP_DROPPABLE")
ctypes.memset(at, 7, 65536)
signal.pause()
"""


def droppable(pid: int) -> list[procfs.Area]:
    """Return the mappings of PID that may be dropped."""
    return [area for area in procfs.smaps(pid) if "dp" in area.vm_flags]


def test_only_the_mapping_comes_back(lab: Lab) -> None:
    process = lab.spawn([sys.executable, "-c", PROGRAM])
    until(lambda: process.poll() is not None or bool(droppable(process.pid)), "it maps nothing")
    if process.poll() is not None:
        pytest.skip("this kernel has no MAP_DROPPABLE")
    until(lambda: any(procfs.read_memory(process.pid, droppable(process.pid)[0].end - 1, 1)), "it writes nothing")
    before = droppable(process.pid)
    images = lab.dump(process.pid, "1")
    lab.reap()
    lab.restore(images)
    assert droppable(process.pid) == before
    assert not any(procfs.read_memory(process.pid, before[0].start, 65536))
    lab.end(process.pid)
