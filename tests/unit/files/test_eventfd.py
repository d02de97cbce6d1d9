# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether an eventfd is a semaphore is found out without the kernel's help, and its counter is left as it was."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from _engine.kernel.syscall import syscall
from _engine.resources.files.eventfd import EFD_SEMAPHORE, is_semaphore

MOST = 2**64 - 2  # eventfd(2)


@pytest.mark.parametrize("counter", [0, 1, 2, 3, 2**32, MOST])
@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK])
@pytest.mark.parametrize("semaphore", [False, True])
def test_a_semaphore_is_told_apart(semaphore: bool, flags: int, counter: int) -> None:
    fd = syscall("eventfd2", 0, flags | (EFD_SEMAPHORE if semaphore else 0))
    try:
        if counter:
            os.write(fd, struct.pack("=Q", counter))
        assert is_semaphore(fd, counter) == semaphore
        shown = dict(line.split(":") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        assert int(shown["eventfd-count"], 16) == counter
    finally:
        os.close(fd)
