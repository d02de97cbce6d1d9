# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Losing no time: what holds meanwhile, and that it is as before afterwards."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import pytest
from _engine.kernel.urgency import calm, hasten, urgent


def _scheduling() -> tuple[int, int]:
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def test_it_holds_for_us_alone_and_ends() -> None:
    before = _scheduling()
    with pytest.raises(KeyError), urgent():
        assert not gc.isenabled()
        if _scheduling() == before:
            pytest.skip("real-time priorities are not to be had here")
        assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
        told = subprocess.run([sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], capture_output=True, check=True)
        assert int(told.stdout) == os.SCHED_OTHER
        raise KeyError
    assert gc.isenabled() and _scheduling() == before


def test_another_thread_is_hastened_and_calmed() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            hasten(sleeper.pid)
            assert os.sched_getscheduler(sleeper.pid) in (os.SCHED_RR, os.SCHED_OTHER)
            calm(sleeper.pid)
            assert os.sched_getscheduler(sleeper.pid) == os.SCHED_OTHER
        finally:
            sleeper.kill()
