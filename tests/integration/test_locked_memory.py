# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is locked, that is locked page by page, and that will be locked when it is mapped."""

from __future__ import annotations

import pytest

from look import assert_same, look
from victim import Lab

MCL_FUTURE, MCL_ONFAULT = 2, 4


@pytest.mark.parametrize("future", [0, MCL_FUTURE, MCL_FUTURE | MCL_ONFAULT], ids=["nothing", "future", "on fault"])
def test_locks_are_carried(lab: Lab, future: int) -> None:
    victim = lab.start("locked", str(future))
    answer = victim.ask()
    if "lf" in answer:
        pytest.skip("this kernel does not show what is locked on fault")
    assert answer == "ok"
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running", "--freeze=snapshot")
    assert victim.ask() == "ok"
    victim.await_rest()
    before = look(victim.pid)
    last = lab.dump(victim.pid, "2")
    lab.reap()
    lab.restore(last)
    victim.await_rest()
    assert_same(before, look(victim.pid))
    assert victim.ask() == "ok"
    lab.end(victim.pid)
    lab.restore(first, "--track-mem")
    assert victim.ask() == "ok"
