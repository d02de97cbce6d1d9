# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Leases that our own descriptors tell of."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from _engine.kernel.filelocks import holds_lease


def test_a_lease_is_seen_by_any_copy_of_the_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "leased"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    copy, place = os.dup(fd), os.open(path, os.O_PATH)
    try:
        assert not holds_lease(fd)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        assert holds_lease(fd) and holds_lease(copy)
        assert not holds_lease(place)
    finally:
        for one in (fd, copy, place):
            os.close(one)
