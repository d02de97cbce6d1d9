# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of /proc, tried on this process."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import pytest
from _engine.kernel import procfs


def test_names_of_mapped_files_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "one\rtwo\x0bthree\x0cfour\u2028five\x85"
    path.write_bytes(bytes(mmap.PAGESIZE))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert [area.name for area in procfs.maps(os.getpid()) if area.name.startswith(str(tmp_path))] == [str(path)]
        assert [area.name for area in procfs.smaps(os.getpid()) if area.name.startswith(str(tmp_path))] == [str(path)]


def test_the_status_of_a_thread() -> None:
    status, thread = procfs.status(os.getpid()), threading.get_native_id()
    assert (status["Pid"], status["Tgid"], status["Uid"].split()) == (str(os.getpid()), str(os.getpid()), [str(os.getuid())] * 4)
    assert int(status["VmRSS"].split()[0]) > 1000 and status["VmRSS"].endswith(" kB")
    own = procfs.thread_status(os.getpid(), thread)
    assert (own.own_pid, own.own_tid) == (int(status["NStgid"].split()[-1]), int(status["NSpid"].split()[-1]))
    assert own.ignored == int(status["SigIgn"], 16)


def test_the_mapping_that_an_address_is_in() -> None:
    areas = procfs.maps(os.getpid())
    for area in areas[:5]:
        assert procfs.area_at(os.getpid(), area.start) == area == procfs.area_at(os.getpid(), area.end - 1)
    assert procfs.area_at(os.getpid(), 0) is None
    assert procfs.area_at(os.getpid(), (1 << 64) - 1) is None


def test_a_process_that_has_ended_is_gone() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(procfs.GONE):
        procfs.status(child)
