# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at the descriptors of a program that opens, watches and closes some all the time: none of that is an obstacle."""

from __future__ import annotations

import os

import pytest

from _engine.options import DumpOptions
from _engine.resources.files.dump import FilesDump
from _engine.tracking import uffd_wp
from process import python, running

OPENED_AND_CLOSED = """
import os, threading
def churn():
    null = os.open("/dev/null", os.O_RDONLY)
    while True:
        os.dup2(null, 50)
        os.close(50)
threading.Thread(target=churn, daemon=True).start()
"""
WATCHED = """
import os, select, threading
def churn():
    poll = select.epoll()
    while True:
        event = os.eventfd(0)
        poll.register(event, select.EPOLLIN)
        os.close(event)
threading.Thread(target=churn, daemon=True).start()
"""
WITH_TRACKER = OPENED_AND_CLOSED + """
import ctypes
os.dup2(ctypes.CDLL(None).syscall(323, os.O_CLOEXEC | os.O_NONBLOCK | 1), 60, False)  # userfaultfd(2), UFFD_USER_MODE_ONLY
"""
LOOKS = 500


@pytest.mark.parametrize("program", [OPENED_AND_CLOSED, WATCHED], ids=["opened", "watched"])
def test_what_comes_and_goes_is_no_obstacle(program: str) -> None:
    with running(*python(program)) as process:
        for _look in range(LOOKS):
            with FilesDump(DumpOptions(tree=process.pid, images_dir="")) as files:
                obstacles = [found for found in files.preflight([process.pid]) if "pipe" not in found.where]
                assert not obstacles


def test_a_tracker_is_found_beside_what_comes_and_goes() -> None:
    with running(*python(WITH_TRACKER)) as process:
        inode = os.stat(f"/proc/{process.pid}/fd/60").st_ino
        for _look in range(LOOKS):
            assert 60 in uffd_wp.descriptors(process.pid, {inode})
