# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that cannot be dumped are told so in one sentence, before anything is touched."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from _engine.errors import TargetError
from _engine.target import check_target
from process import descendants, python, running

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17


def refusal(pid: int) -> str:
    with pytest.raises(TargetError) as caught:
        check_target(pid)
    return str(caught.value)


def test_a_tree_is_returned_parents_first() -> None:
    with running("sh", "-c", "sleep 60 & sh -c 'sleep 60 & echo ready; wait' & wait") as process:
        tree = check_target(process.pid)
        assert tree[0] == process.pid
        assert sorted(tree) == sorted(descendants(process.pid))
        assert len(tree) == 4


@pytest.mark.parametrize("pid", [0, -1, -(1 << 40)])
def test_no_pid_at_all(pid: int) -> None:
    assert f"{pid} is not a PID" in refusal(pid)


def test_no_such_process() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for pid in (ended.pid, 1 << 22, 1 << 31, 1 << 70):
        assert refusal(pid) == f"process {pid} does not exist; name one that runs"


def test_a_thread_is_no_process() -> None:
    with running(*python("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")) as process:
        thread = max(int(name) for name in os.listdir(f"/proc/{process.pid}/task"))
        assert thread != process.pid
        assert refusal(thread) == f"{thread} is a thread of process {process.pid}, not a process; name {process.pid}"


def test_a_zombie() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert f"process {ended.pid} (true) is a zombie" in refusal(ended.pid)
    ended.wait()


def test_a_process_without_its_first_thread() -> None:
    script = "import ctypes, threading; threading.Thread(target=threading.Event().wait).start(); ctypes.CDLL(None).syscall(60, 0)"
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        while "State:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
            os.sched_yield()
        assert f"the first thread of process {process.pid}" in refusal(process.pid)
    finally:
        process.kill()
        process.wait()


def test_a_kernel_thread() -> None:
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("kernel threads are not seen in this PID namespace")
    assert refusal(2) == "process 2 (kthreadd) is a kernel thread; name a process of user space"


def test_the_init_process() -> None:
    assert refusal(1).startswith("process 1 is the init process")


def test_ourselves_and_our_ancestors() -> None:
    for pid in (os.getpid(), os.getppid()):
        if pid > 1:
            assert refusal(pid).startswith(f"process {pid} is the one that would do the dump, or an ancestor of it")


def test_a_tree_in_which_a_child_is_traced_names_the_tracer() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with running("sh", "-c", "sleep 60 & echo ready; wait") as process:
        child = descendants(process.pid)[1]
        if libc.ptrace(PTRACE_SEIZE, child, 0, 0):
            pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
        try:
            comm = Path("/proc/self/comm").read_text().strip()
            expected = f"process {child} is already traced, by process {os.getpid()} ({comm}); end the tracer first"
            assert refusal(process.pid) == refusal(child) == expected
        finally:
            os.kill(child, signal.SIGSTOP)
            os.waitpid(child, 0x40000000)
            libc.ptrace(PTRACE_DETACH, child, 0, signal.SIGCONT)
        assert check_target(process.pid) == (process.pid, child)


def test_it_works_in_an_interpreter_without_the_engine_s_packages() -> None:
    script = (
        "import sys; sys.modules['google'] = sys.modules['ptrace'] = None; "
        f"sys.path.insert(0, {str(Path(__file__).parent.parent.parent / 'plugins' / 'module_utils')!r}); "
        "from _engine.target import check_target; from _engine.find import find; print('fine')"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "fine\n"
