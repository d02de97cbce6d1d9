# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""State to images and back: registers, timers, credentials, scheduling, limits; and what a machine is found to lack."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path
from typing import Any, List

import pytest

from _engine.errors import RestoreError
from _engine.images.schema import message
from _engine.kernel import cpuid
from _engine.resources import attributes, core, credentials, preflight, registers, rlimits, scheduling, timers
from _engine.resources.credentials import Capabilities, Credentials, Ids
from _engine.resources.timers import PosixTimer, Time, Timers
from _engine.tracee.arch.x86_64 import Registers

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="these are the registers of x86-64")
SIZES = {2: 256, 5: 64, 6: 512, 7: 1024, 9: 8}
INTEL = {bit: cpuid.Component(offset, SIZES[bit]) for bit, offset in ((2, 576), (5, 1088), (6, 1152), (7, 1664), (9, 2688))}
AMD = {bit: cpuid.Component(offset, SIZES[bit]) for bit, offset in ((2, 576), (5, 832), (6, 896), (7, 1408), (9, 2432))}
OLD = {2: cpuid.Component(576, 256)}
SIZE = 2696
REGISTERS = Registers(*range(100, 127))


def xsave_area(components: Any, used: int, size: int = SIZE) -> bytes:
    """Return an XSAVE area with a pattern of its own in each component."""
    area = bytearray(size)
    struct.pack_into("<4H2Q2I", area, 0, 0x37F, 1, 2, 3, 4, 5, 0x1FA0, 0xFFFF)
    area[32:160] = bytes(range(128))
    area[160:416] = bytes(range(256))
    struct.pack_into("<Q", area, 512, used)
    for bit, (offset, length) in components.items():
        if used >> bit & 1:
            area[offset : offset + length] = bytes([bit]) * length
    return bytes(area)


def processor(monkeypatch: pytest.MonkeyPatch, components: Any) -> None:
    monkeypatch.setattr(registers, "xstate_components", lambda: components)


def core_with(xstate: bytes) -> Any:
    entry = message("core_entry")()
    registers.fill(entry, REGISTERS, xstate)
    return entry


@pytest.mark.parametrize("components", [INTEL, AMD], ids=["intel", "amd"])
def test_registers_come_back(monkeypatch: pytest.MonkeyPatch, components: Any) -> None:
    processor(monkeypatch, components)
    area = xsave_area(components, 0b1011100111)
    entry = core_with(area)
    assert registers.extended(entry, SIZE) == area
    assert registers.general(entry) == REGISTERS._replace(orig_ax=(1 << 64) - 1)


def test_extended_registers_move_between_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, INTEL)
    entry = core_with(xsave_area(INTEL, 0b1011100111))
    processor(monkeypatch, AMD)
    assert registers.extended(entry, SIZE) == xsave_area(AMD, 0b1011100111)


def test_control_register_is_taken_though_sse_is_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, INTEL)
    assert registers.in_use(registers.extended(core_with(xsave_area(INTEL, 0)), SIZE)) == 0b10


def test_what_the_processor_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, INTEL)
    used, unused = core_with(xsave_area(INTEL, 0b11100111)), core_with(xsave_area(INTEL, 0b111))
    processor(monkeypatch, OLD)
    (obstacle,) = registers.check(7, used)
    assert "AVX-512" in obstacle.why and obstacle.pid == 7
    with pytest.raises(RestoreError, match="AVX-512"):
        registers.extended(used, 832)
    assert registers.check(7, unused) == []
    assert registers.extended(unused, 832) == xsave_area(OLD, 0b111, 832)


def test_images_without_extended_state_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, INTEL)
    entry = core_with(xsave_area(INTEL, 0b111))
    entry.thread_info.fpregs.ClearField("xsave")
    assert registers.extended(entry, SIZE) == xsave_area({}, 0b11)


def test_processor_tells_where_its_state_lies() -> None:
    components = cpuid.xstate_components()
    assert components[2] == (576, 256)
    for offset, size in components.values():
        assert offset >= 576 and size > 0


TIMERS = Timers(
    (Time((500, 250), (1000, 1)), Time((0, 0), (0, 0)), Time((1, 0), (0, 999999))),
    (
        PosixTimer(3, 1, 10, timers.SIGEV_SIGNAL, 1 << 63, 0, Time((1, 2), (3, 4)), 5),
        PosixTimer(9, (1 << 32) - 6, 0, timers.SIGEV_THREAD_ID, 0, 77, Time((0, 0), (0, 0))),
    ),
)


def test_timers_come_back() -> None:
    tc = message("task_core_entry")()
    timers.fill(tc, TIMERS)
    assert timers.read(tc) == TIMERS


def test_a_timer_about_to_expire_gets_a_whole_interval() -> None:
    assert struct.unpack("<4Q", Time((3, 4), (0, 0)).pack()) == (3, 4, 3, 4)
    assert struct.unpack("<4Q", Time((3, 4), (0, 1)).pack()) == (3, 4, 0, 1)


def test_credentials_come_back() -> None:
    ids = Ids(1, 2, 3, 4), Ids(5, 6, 7, 8)
    own = Credentials(*ids, (9, 10, 1 << 31), Capabilities(1 << 40, 3 << 31, 1 << 31, (1 << 41) - 1, 0), 5, True)
    thread_core = message("thread_core_entry")()
    credentials.fill(thread_core, own)
    assert list(thread_core.creds.cap_prm) == [1 << 31, 1]
    assert credentials.read(thread_core) == own


def test_missing_capabilities_are_named() -> None:
    thread_core = message("thread_core_entry")()
    everything = Capabilities(0, (1 << 64) - 1, 0, 0, 0)
    credentials.fill(thread_core, Credentials(Ids(0, 0, 0, 0), Ids(0, 0, 0, 0), (), everything, 0, False))
    (obstacle,) = credentials.check(7, thread_core)
    if not credentials.own_capabilities().permitted >> 24 & 1:
        assert "CAP_SYS_RESOURCE" in obstacle.why
    thread_core.creds.cap_prm[:] = [0, 0]
    assert credentials.check(7, thread_core) == []


def test_scheduling_comes_back() -> None:
    own = scheduling.Scheduling(1 | 0x40000000, 50, -20, frozenset({0, 65}), 123, 2 << 13 | 3)
    thread_core = message("thread_core_entry")()
    scheduling.fill(thread_core, own)
    assert scheduling.read(thread_core) == own


def test_affinity_to_absent_processors_is_an_obstacle() -> None:
    thread_core = message("thread_core_entry")()
    scheduling.fill(thread_core, scheduling.Scheduling(0, 0, 0, frozenset({5000}), 0, 0))
    (obstacle,) = scheduling.check(7, 8, thread_core)
    assert "5000" in obstacle.why


def test_limits_above_ours_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlimits.resource, "getrlimit", lambda number: (100, 1000))
    monkeypatch.setattr(rlimits, "own_capabilities", lambda: Capabilities(0, 0, 0, 0, 0))
    tc = message("task_core_entry")()
    rlimits.fill(tc, [rlimits.Limit(1, 1000 + (number == 7)) for number in range(16)])
    (obstacle,) = rlimits.check(7, tc)
    assert obstacle.where == "limit nofile" and "1001" in obstacle.why


def test_oom_score_below_ours_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "own_capabilities", lambda: Capabilities(0, 0, 0, 0, 0))
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert attributes.check(7, message("task_core_entry")(oom_score_adj=own)) == []
    assert attributes.check(7, message("task_core_entry")(oom_score_adj=own - 1))[0].where == "oom_score_adj"


def test_seccomp_without_its_filter_is_an_obstacle() -> None:
    found: List[Any] = core.check(7, [message("core_entry")(mtype=1, thread_core=message("thread_core_entry")(seccomp_mode=2))], ())
    assert [obstacle.where for obstacle in found if obstacle.where == "seccomp"] == ["seccomp"]


def test_an_ordinary_process_has_no_obstacle() -> None:
    assert preflight.obstacles(os.getpid()) == []
    assert preflight.obstacles(1 << 22) == []
