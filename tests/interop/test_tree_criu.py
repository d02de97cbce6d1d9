# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Zombies, lost leaders, seccomp and shared tables: dumped by CRIU and restored by us, and the other way round.

STILLFRAME_CRIU names a CRIU that runs here; tests/interop/get-criu fetches one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from _engine.kernel import cgroups  # noqa: E402
from victim import Lab, become_subreaper, children, state, until  # noqa: E402
from victims import CRIU, run  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]
DIRECTIONS = pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu"), ("stillframe", "stillframe")])
FAMILY = """
import os, signal
def child(work):
    pid = os.fork()
    if not pid:
        work()
        while True:
            signal.pause()
    return pid
def pipeline():
    os.setpgid(0, 0)
    child(lambda: None)
    child(lambda: None)
    signal.pause()
def session():
    os.setsid()
    child(lambda: child(lambda: None))
    signal.pause()
for end in (3, 0):
    zombie = child(lambda: os._exit(end))
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
zombie = child(lambda: os.kill(os.getpid(), signal.SIGTERM))
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
leader = child(lambda: None)
os.setpgid(leader, leader)
os.setpgid(child(lambda: None), leader)
os.kill(leader, signal.SIGKILL)
os.waitpid(leader, 0)
child(pipeline)
child(session)
while True:
    signal.pause()
"""


REAPER = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
if os.fork():
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    reaper = os.getpid()
    while True:
        signal.sigwait({signal.SIGUSR1})
        child = os.fork()
        if not child:
            if not os.fork():
                while os.getppid() not in (reaper, 1) and os.path.exists(f"/proc/{os.getppid()}/task"):
                    os.sched_yield()
                with open(sys.argv[1] + ".new", "w") as file:
                    file.write(str(os.getppid()))
                os.rename(sys.argv[1] + ".new", sys.argv[1])
            os._exit(0)
        os.waitpid(child, 0)
        os.wait()
while True:
    signal.pause()
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    become_subreaper()
    programs = tmp_path / "programs"
    programs.mkdir()
    made = Lab(tmp_path, {"": programs}, children())
    try:
        yield made
    finally:
        made.reap()


def carry(lab: Lab, root: int, dumper: str, restorer: str) -> None:
    """Dump the tree under ROOT by one program, end it, and restore it by the other."""
    images = lab.images("1")
    run(dumper, "dump", images, "--tree", str(root))
    lab.reap()
    run(restorer, "restore", images, "--restore-detached")


def family(root: int) -> list[tuple[str, ...]]:
    """Return state, parent, group, session and status of each process below ROOT."""
    found = []
    waiting = [int(pid) for pid in Path(f"/proc/{root}/task/{root}/children").read_text().split()]
    for pid in waiting:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found.append((str(pid), *fields[:4], fields[-1]))
        waiting += [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return sorted(found)


def at_rest(root: int) -> bool:
    """Tell whether all of the family is there, waiting or ended."""
    try:
        found = family(root)
    except FileNotFoundError:
        return False
    return len(found) == 10 and all(row[1] in "SZ" for row in found)


@pytest.mark.kind("zombies", "sessions, process groups", "stopped tasks", "children, orphans")
@DIRECTIONS
def test_zombies_and_groups(lab: Lab, dumper: str, restorer: str) -> None:
    root = lab.spawn([sys.executable, "-c", FAMILY]).pid
    until(lambda: at_rest(root), "the family does not come to rest")
    before = family(root)
    carry(lab, root, dumper, restorer)
    until(lambda: at_rest(root), "the family does not come to rest")
    assert family(root) == before


@pytest.mark.kind("subreapers")
@DIRECTIONS
def test_reapers_of_orphans(lab: Lab, dumper: str, restorer: str) -> None:
    told = lab.folder / "told"
    root = lab.spawn([sys.executable, "-c", REAPER, str(told)]).pid
    until(lambda: waits_for_signals(root), "the reaper does not come to rest")
    carry(lab, root, dumper, restorer)
    os.kill(root, signal.SIGUSR1)
    until(told.exists, "the orphan does not tell")
    assert int(told.read_text()) == root


def waits_for_signals(pid: int) -> bool:
    """Tell whether PID is in rt_sigtimedwait(2), and its child waits too."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return words[0] == "128" and bool(below) and all(state(int(child)) == "S" for child in below)


@DIRECTIONS
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("sandbox", marks=pytest.mark.kind("seccomp")),
        pytest.param("shared_tables", marks=pytest.mark.kind("shared descriptor tables, directories")),
    ],
)
def test_seccomp_and_shared_tables(lab: Lab, program: str, dumper: str, restorer: str) -> None:
    victim = lab.start(program, "as criu")
    victim.await_rest()
    carry(lab, victim.pid, dumper, restorer)
    assert state(victim.pid) in "SR"
    assert victim.ask() == "ok"
    if program == "sandbox":
        assert victim.ask("add") == "ok" and victim.ask("break") == "ok"


@contextmanager
def new_cgroup(lab: Lab, hierarchy: str) -> Iterator[Path]:
    """A new cgroup, which is gone with all that is in it afterwards."""
    mount = cgroups.mounts().get(hierarchy)
    if mount is None or not os.access(mount.directory, os.W_OK):
        pytest.skip("no such hierarchy that we may write")
    directory = Path(mount.directory, f"stillframe-{os.getpid()}")
    directory.mkdir()
    try:
        yield directory
    finally:
        lab.reap()
        until(lambda: not (directory / "cgroup.procs").read_text(), f"{directory} is in use")
        directory.rmdir()


@DIRECTIONS
@pytest.mark.parametrize(
    "hierarchy",
    [
        pytest.param(cgroups.VERSION_2, marks=pytest.mark.kind("cgroup membership (v2)"), id="version 2"),
        pytest.param("freezer", marks=pytest.mark.kind("cgroup membership (v1)"), id="version 1"),
    ],
)
def test_cgroups(lab: Lab, hierarchy: str, dumper: str, restorer: str) -> None:
    with new_cgroup(lab, hierarchy) as directory:
        root = lab.spawn(["sleep", "1000"]).pid
        until(lambda: Path(f"/proc/{root}/comm").read_text() == "sleep\n", "nothing is started")
        cgroups.join_process(str(directory), root)
        before = memberships(root)
        assert before[hierarchy].endswith(directory.name)
        carry(lab, root, dumper, restorer)
        after = memberships(root)
        # a hierarchy that nobody has mounted goes when the kernel finds the time, whatever the test does
        assert {name: path for name, path in after.items() if name in before} == {
            name: path for name, path in before.items() if name in after
        }
        assert after[hierarchy] == before[hierarchy]


def memberships(pid: int) -> dict[str, str]:
    """Return the path of PID's cgroup in each hierarchy there is."""
    return {member.hierarchy: member.path for member in cgroups.of_thread(pid, pid)}
