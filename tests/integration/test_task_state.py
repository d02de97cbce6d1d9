# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a task is dumped, given to another process, and dumped again: it is the same."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from _engine.images.image import ImagesDir
from _engine.images.schema import message
from _engine.kernel import procfs
from _engine.resources import attributes, core, scheduling, timers
from _engine.tracee.freeze import FrozenTree, Task
from victim import SYS_PAUSE, pauses

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it changes credentials and traces other users' tasks")
PROGRAM = Path(__file__).parents[1] / "programs" / "task_state.c"
NO_SYSCALL = (1 << 64) - 1


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("programs") / "task_state"
    path.parent.chmod(0o755)
    subprocess.run(["gcc", "-O1", "-Wno-nonnull", "-o", str(path), str(PROGRAM), "-lpthread"], check=True)
    return str(path)


@pytest.fixture
def start(program: str) -> Iterator[Any]:
    """A function that starts the program, always at the same addresses, and returns its PID."""
    processes: List[subprocess.Popen[str]] = []

    def run(mode: str) -> int:
        process = subprocess.Popen(["setarch", "-R", program, mode], stdout=subprocess.PIPE, text=True, start_new_session=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not all(pauses(process.pid, int(tid)) for tid in os.listdir(f"/proc/{process.pid}/task")):
            assert process.poll() is None
        return process.pid

    yield run
    for process in processes:
        process.kill()
        process.wait(timeout=10)
        if process.stdout is not None:
            process.stdout.close()


def dump(pid: int, directory: Path) -> core.TaskState:
    """Write the core images of PID, and its mm as far as it is ours, to DIRECTORY."""
    images = ImagesDir(str(directory))
    with FrozenTree(pid, 10) as tree:
        (task,) = tree.tasks
        state = core.collect(pid, task.threads)
    for name, entry in core.images(state, core.tables("ignore")):
        images.write(name, [entry])
    return state


def mm_entry(state: core.TaskState) -> Any:
    mm = message("mm_entry")()
    attributes.fill_memory(mm, state.attributes)
    return mm


def load(directory: Path, state: core.TaskState, task: Task) -> Dict[int, Any]:
    """Return the cores that were dumped, by the threads of TASK, which have other numbers."""
    images = ImagesDir(str(directory))
    cores = {}
    tids = {thread.tid: tracee.tid for thread, tracee in zip(state.threads, task.threads)}
    for thread in state.threads:
        (entry,) = images.read(f"core-{thread.tid}")
        for timer in entry.tc.timers.posix if entry.HasField("tc") else ():
            timer.notify_thread_id = tids.get(timer.notify_thread_id, 0)
        cores[tids[thread.tid]] = entry
    return cores


def restore(task: Task, cores: Dict[int, Any], mm: Any) -> None:
    attributes.restore_page_size(task.leader, cores[task.pid].tc, mm)
    core.restore_process(task.leader, cores[task.pid])
    for tracee in task.threads:
        core.restore_thread(tracee, cores[tracee.tid])
    core.finish_process(task.leader, cores[task.pid], mm)
    for tracee in task.threads:
        tracee.close_scratch()
    for tracee in task.threads:
        core.restore_registers(tracee, cores[tracee.tid])


def comparable(state: core.TaskState) -> core.TaskState:
    """Return STATE without what may differ: numbers of threads, time that passed, the trace of a system call."""
    tids = {thread.tid: number for number, thread in enumerate(state.threads)}
    threads = tuple(replace(t, tid=tids[t.tid], registers=t.registers._replace(orig_ax=NO_SYSCALL)) for t in state.threads)
    posix = tuple(replace(t, thread=tids.get(t.thread, -1), time=without_time(t.time)) for t in state.timers.posix)
    clocks = timers.Timers(tuple(without_time(time) for time in state.timers.intervals), posix)
    values = replace(state.attributes, flags=0)
    return replace(state, pid=0, threads=threads, timers=clocks, attributes=values)


def without_time(time: timers.Time) -> timers.Time:
    """Return TIME with the time left rounded up to a minute and a half."""
    return replace(time, left=(-(-(time.left[0] + 1) // 90), 0) if any(time.left) else (0, 0))


@pytest.mark.parametrize("timer_ids", ["asked for", "counted up to"])
def test_state_given_to_another_process_is_the_same(
    start: Any, tmp_path: Path, timer_ids: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if timer_ids == "counted up to":  # as before Linux 6.17: a prctl that no kernel has
        monkeypatch.setattr(timers, "PR_TIMER_CREATE_RESTORE_IDS", 0x7FFF0000)
    victim, stub = start("full"), start("plain")
    before = dump(victim, tmp_path)
    with FrozenTree(stub, 10) as tree:
        (task,) = tree.tasks
        cores = load(tmp_path, before, task)
        assert not list(core.check(stub, list(cores.values()), ()))
        restore(task, cores, mm_entry(before))
        after = core.collect(stub, task.threads)
    assert comparable(after) == comparable(before)


def test_victim_is_unharmed(start: Any, tmp_path: Path) -> None:
    victim = start("full")
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = dump(victim, tmp_path / "1"), dump(victim, tmp_path / "2")
    assert comparable(second) == comparable(first)


def test_state_is_what_the_program_set(start: Any, tmp_path: Path) -> None:
    state = dump(start("full"), tmp_path)
    leader, other = state.threads
    assert leader.registered.comm == 'the "state"' and other.registered.comm == "second one"
    assert leader.credentials.uids == (65534, 65533, 65532, 65533) and other.credentials.uids == (1000, 1001, 1002, 1001)
    assert leader.credentials.groups == (5, 7, 2000)
    assert leader.credentials.capabilities.ambient == 1 << 10
    assert leader.credentials.no_new_privs and not other.credentials.no_new_privs
    assert (leader.registered.death_signal, other.registered.death_signal) == (12, 0)
    assert other.scheduling.affinity == ({0} if scheduling.online() > {0} else set()) and other.scheduling.policy == 3
    assert (leader.scheduling.nice, other.scheduling.nice) == (-3, 7)
    assert other.scheduling.timer_slack == 123456 and other.scheduling.io_priority == 2 << 13 | 3
    assert [signals_of(leader.signals.pending), signals_of(state.pending)] == [[1, 23], [23, 37, 37]]
    assert signals_of(other.signals.pending) == [28]
    assert [timer.id for timer in state.timers.posix] == [1, 3, 4, 5]
    assert state.timers.posix[3].thread == state.pid
    assert state.limits[7] == (333, 444)
    assert state.attributes.child_subreaper and state.attributes.thp_disable == 1 and state.attributes.membarrier == 16
    assert state.attributes.dumpable == 0
    assert b"sixty-four bytes" in leader.xstate


def signals_of(pending: Tuple[bytes, ...]) -> List[int]:
    return sorted(int.from_bytes(info[:4], "little") for info in pending)


def test_a_stopped_process_is_to_be_stopped_again(start: Any, tmp_path: Path) -> None:
    victim = start("plain")
    os.kill(victim, signal.SIGSTOP)
    os.waitpid(victim, os.WUNTRACED)
    with FrozenTree(victim, 10) as tree:
        (task,) = tree.tasks
        state = core.collect(victim, task.threads, task.stop_signal)
    (_name, entry), _other = core.images(state, core.tables("ignore"))
    assert entry.tc.task_state == core.TASK_STOPPED
    assert core.stop_signal(entry) == signal.SIGSTOP


def test_an_interrupted_call_is_made_again(start: Any) -> None:
    victim = start("plain")
    with FrozenTree(victim, 10) as tree:
        state = core.collect(victim, tree.tasks[0].threads)
    for thread in state.threads:
        assert thread.registers.ax == SYS_PAUSE
        assert procfs.read_memory(victim, thread.registers.ip, 2) == b"\x0f\x05"
