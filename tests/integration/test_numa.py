# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""NUMA policies of threads and of mappings (set_mempolicy(2), mbind(2)), in parents and in children that inherit memory."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from _engine.images.schema import message
from _engine.resources import numa
from victim import Lab, until

PROGRAM = """
import ctypes, mmap, os, signal, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
BIND, INTERLEAVE, LOCAL, STATIC, ADDR = 2, 3, 4, 1 << 15, 2
node = ctypes.c_ulong(1)
def set_own(mode, mask=node):
    if libc.syscall(238, mode, ctypes.byref(mask), ctypes.c_ulong(64)):
        sys.exit(1)
def area(flags, mode):
    at = libc.mmap(None, 65536, mmap.PROT_READ | mmap.PROT_WRITE, flags | mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memset(at, 7, 32768)
    if mode and libc.syscall(237, ctypes.c_void_p(at), ctypes.c_ulong(65536), mode, ctypes.byref(node), ctypes.c_ulong(64), 0):
        sys.exit(1)
    return at
def policy(at=0):
    mode, mask = ctypes.c_int(), (ctypes.c_ulong * 16)()
    flags = ctypes.c_ulong(ADDR if at else 0)
    libc.syscall(239, ctypes.byref(mode), mask, ctypes.c_ulong(1024), ctypes.c_void_p(at), flags)
    return mode.value, mask[0]
areas = [area(mmap.MAP_PRIVATE, BIND), area(mmap.MAP_PRIVATE, 0), area(mmap.MAP_SHARED, INTERLEAVE), area(mmap.MAP_PRIVATE, BIND | STATIC)]
set_own(INTERLEAVE | STATIC)
def told():
    return [policy(), *map(policy, areas), ctypes.string_at(areas[0], 65536) == bytes([7]) * 32768 + bytes(32768)]
def serve(own):
    while True:
        signal.sigwait([signal.SIGUSR1])
        with open(f"{sys.argv[1]}/{own}.new", "w") as file:
            file.write(repr(told()))
        os.rename(f"{sys.argv[1]}/{own}.new", f"{sys.argv[1]}/{own}")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
if os.fork() == 0:
    libc.syscall(237, ctypes.c_void_p(areas[0]), ctypes.c_ulong(65536), 0, 0, ctypes.c_ulong(0), 0)
    set_own(0, ctypes.c_ulong(0))
    serve("child")
serve("parent")
"""


def told(folder: Path, pids: dict[str, int]) -> dict[str, str]:
    """Return what each of PIDS, the processes by their names, says."""
    found = {}
    for name, pid in pids.items():
        (folder / name).unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
        until((folder / name).exists, f"the {name} does not answer")
        found[name] = (folder / name).read_text()
    return found


def waits(pid: int) -> bool:
    """Tell whether PID waits for a signal (rt_sigtimedwait)."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == "128"


def test_policies_come_back(lab: Lab) -> None:
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("this kernel has no NUMA policies")
    process = lab.spawn([sys.executable, "-c", PROGRAM, str(lab.folder)])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: process.poll() is not None or bool(children.read_text()), "it forks no child")
    assert process.poll() is None, "it cannot set its policies"
    pids = {"parent": process.pid, "child": int(children.read_text())}
    until(lambda: all(map(waits, pids.values())), "they do not come to rest")
    before = told(lab.folder, pids)
    static = 1 << 15
    assert before["parent"] == repr([(3 | static, 1), (2, 1), (0, 0), (3, 1), (2 | static, 1), True])
    assert before["child"] == repr([(0, 0), (0, 0), (0, 0), (3, 1), (2 | static, 1), True])
    images = lab.dump(process.pid, "1")
    lab.reap()
    lab.restore(images)
    assert told(lab.folder, pids) == before
    lab.end(process.pid)


def test_nodes_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = message("thread_core_entry")()
    assert numa.check(5, [entry]) == []
    entry.stillframe.numa.mode, entry.stillframe.numa.nodes = 2, b"\x05"
    monkeypatch.setattr(numa, "_nodes", lambda: frozenset({0, 1}))
    (obstacle,) = numa.check(5, [entry])
    assert "[2]" in str(obstacle)
    monkeypatch.setattr(numa, "_nodes", lambda: frozenset({0, 1, 2}))
    assert numa.check(5, [entry]) == []
