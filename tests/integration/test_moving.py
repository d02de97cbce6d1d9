# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree moves to another host while it runs: the same one goes on there, and nothing of it stays here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import moving
from victim import Lab, until

_KEEN = {"max_downtime": 0.000001}
"""More rounds than one."""


@pytest.fixture
def there(lab: Lab) -> Iterator[moving.Host]:
    """Another host, with a receiver that waits."""
    host = moving.host(lab)
    try:
        yield host
    finally:
        host.end()


def test_a_program_that_writes_on_moves_in_rounds(lab: Lab, there: moving.Host) -> None:
    victim = lab.start("writer")
    moved = moving.move(lab, victim, there, options=_KEEN)
    assert len(moved["rounds"]) >= 3, moved
    assert moved["stop"]["pages"] > 0 and moved["rounds"][0]["pages"] >= 2048
    assert there.result()["pids"] == [victim.pid]
    assert not Path(f"/proc/{victim.pid}/exe").exists()
    arrived = there.victim(victim)
    assert arrived.ask() == "ok"
    assert arrived.ask() == "ok"
