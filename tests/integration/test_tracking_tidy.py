# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of tracked processes goes when they have ended, and not before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from _engine import untouched
from _engine.kernel import procfs, userfaultfd
from _engine.kernel.syscall import syscall
from _engine.tracking import state, tidy

MANY = 400
UNUSED = 1 << 40


def put(directory: Path, name: str, age: int, content: str = "") -> str:
    path = directory / f"{procfs.boot_id()}{name}"
    path.write_text(content)
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path.name


@pytest.mark.parametrize("count", [MANY, 1])
def test_only_what_is_in_use_or_young_stays(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.stat("/proc/self/ns/pid").st_ino != tidy._INITIAL_PID_NAMESPACE:
        pytest.skip("all processes of the machine are seen in the initial PID namespace alone")
    pages = tmp_path / "pages-1.img"
    pages.touch()
    stamps = {str(pages): untouched._stamp(str(pages)), str(tmp_path / "gone"): [1, 2, 3, 4, 5]}
    tmp_path = tmp_path / "state"
    tmp_path.mkdir()
    monkeypatch.setattr(state, "DIRECTORY", str(tmp_path))
    uffd = syscall("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK | userfaultfd.UFFD_USER_MODE_ONLY)
    started = procfs.stat(os.getpid()).start_time
    kept = {
        put(tmp_path, f"-uffd-{os.fstat(uffd).st_ino}", 1000),
        put(tmp_path, f"-{os.getpid()}-{started}.json", 1000),
        put(tmp_path, f"-uffd-{UNUSED}", 0),
        put(tmp_path, "-chain-1.stamps", 1000, json.dumps(stamps)),
        put(tmp_path, "-chain-2.stamps", 0),
    }
    gone = {put(tmp_path, f"-uffd-{UNUSED + 1 + number}", 1000) for number in range(count)}
    gone.add(put(tmp_path, f"-{os.getpid()}-{started + 1}.json", 1000))
    gone.add(put(tmp_path, "-chain-3.stamps", 1000, json.dumps({**stamps, str(pages): [1, 2, 3, 4, 5]})))
    gone.add(put(tmp_path, "-chain-4.stamps", 1000))
    tidy.tidy()
    os.close(uffd)
    assert set(os.listdir(tmp_path)) == (kept if count == MANY else kept | gone)
