# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The self-checking programs of tests/programs: dumped by us, shown by crit and restored by CRIU; dumped by CRIU and restored by us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from _engine.check import check  # noqa: E402
from _engine.resources.credentials import own_capabilities  # noqa: E402
from kinds import CRIT, OUR_CHAIN, OURS, THEIRS  # noqa: E402
from test_hugetlb import NEEDED, pool  # noqa: E402
from victim import Lab, Victim, become_subreaper, children  # noqa: E402
from victims import CRIU, run  # noqa: E402

CRIT_PROGRAM = shutil.which("crit") or os.environ.get("STILLFRAME_CRIT", "")
CAP_SYS_RESOURCE = 24
pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]


@dataclass(frozen=True)
class Case:
    """A program, and what of it CRIU 4.2 loses."""

    program: str
    kinds: tuple[str, ...]
    kinds_of_ours: tuple[str, ...] = ()
    """Those that are in our dumps only."""
    arguments: tuple[str, ...] = ()
    rseq: bool = False
    lost: tuple[str, ...] = ()
    """Words in the problems that are passed over when CRIU has restored it."""
    lost_in_dump: tuple[str, ...] = ()
    """The same when CRIU has dumped it."""
    other_user: bool = False


CASES = (
    Case("memory", ("private memory", "copied pages of files", "shared files", "stacks that grow, PROT_NONE, mlock, madvise")),
    Case("shared_memory", ("shared anonymous", "memfd", "sealed memfd", "children, orphans")),
    Case("signals", ("dispositions, alternate stacks", "pending signals", "interval timers", "POSIX timers")),
    Case(
        "threads",
        ("threads", "waits in futex, epoll_wait, read", "restartable sequences"),
        ("waits in poll, nanosleep",),
        arguments=("again",),
        rseq=True,
        lost_in_dump=("poll(", "nanosleep("),
    ),
    Case("registers", ("general, vector and x87 registers",)),
    Case("host_name", ("host name of its own",), arguments=("host", "domain")),
    Case(
        "identity",
        ("users and groups", "capabilities, securebits, no_new_privs", "umask, niceness, scheduling, oom score", "limits"),
        lost=("sched_getaffinity", "reply == 'g'"),
        other_user=True,
    ),
)


def parameters(by_criu: bool = False) -> list[object]:
    """Return the cases with their marks; what CRIU cannot dump BY_CRIU is expected to fail."""
    lacks = not own_capabilities().effective >> CAP_SYS_RESOURCE & 1
    cannot = pytest.mark.xfail(strict=True, reason="CRIU calls prlimit(2), so it dumps other users' tasks only with CAP_SYS_RESOURCE")
    made = []
    for case in CASES:
        marks = [pytest.mark.kind(*case.kinds, *([] if by_criu else case.kinds_of_ours))]
        marks += [cannot] if by_criu and case.other_user and lacks else []
        made.append(pytest.param(case, marks=marks, id=case.program))
    return made


@dataclass(frozen=True)
class Memory:
    """A program whose memory is dumped twice, the second time what it has changed by answering CHANGE."""

    program: str
    kinds: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    change: str = "change"
    check: str = "check"
    huge_pages: int = 0


MEMORIES = (
    Memory("memory", ("private memory", "copied pages of files", "shared files", "stacks that grow, PROT_NONE, mlock, madvise")),
    Memory("shared_memory", ("shared anonymous", "memfd", "sealed memfd")),
    Memory("family", ("pages shared with the parent",)),
    Memory("guards", ("guard regions",), arguments=("unlocked",)),  # CRIU 4.2 restores none in locked memory
    Memory("huge", ("huge pages",), huge_pages=NEEDED),
    Memory("aio", ("asynchronous I/O",), change="nothing", check="fetch"),
)


@contextmanager
def started(case: Case | Memory, folder: Path, programs: dict[str, Path], rseq: bool = False) -> Iterator[tuple[Lab, Victim]]:
    """Run the program of CASE; nothing of it, or restored of it, is left behind."""
    become_subreaper()
    lab = Lab(folder, programs, children())
    try:
        victim = lab.start(case.program, *case.arguments, rseq=rseq)
        victim.await_rest(spinning=case.program == "registers")
        yield lab, victim
    finally:
        lab.reap()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The compiled programs by name; their directory under ""."""
    return {"": tmp_path_factory.mktemp("programs")}


@pytest.fixture(scope="module", params=parameters())
def ours(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, programs: dict[str, Path]
) -> Iterator[tuple[Case, Victim, Path]]:
    """A case, the victim, which has ended, and a dump of ours of it."""
    with started(request.param, tmp_path_factory.mktemp(request.param.program), programs, request.param.rseq) as (lab, victim):
        images = lab.images("1")
        run("stillframe", "dump", images, "--tree", str(victim.pid))
        lab.reap()
        yield request.param, victim, images


def problems(victim: Victim, lost: tuple[str, ...]) -> list[str]:
    """Return what is wrong with VICTIM, but for the LOST."""
    return [problem for problem in victim.ask().split("; ") if problem not in ("ok", "") and not any(word in problem for word in lost)]


@pytest.mark.direction(CRIT)
def test_crit_shows_ours(ours: tuple[Case, Victim, Path]) -> None:
    if not CRIT_PROGRAM:
        pytest.skip("no crit: set STILLFRAME_CRIT")
    of_each_kind = {path.name.split("-")[0]: path for path in ours[2].glob("*.img")}
    for kind, path in of_each_kind.items():
        if kind != "pages":
            done = subprocess.run([CRIT_PROGRAM, "show", str(path)], capture_output=True, text=True, check=False)
            assert done.returncode == 0 and json.loads(done.stdout)["entries"], f"{path}: {done.stderr}"


@pytest.mark.direction(OURS)
def test_criu_restores_ours(ours: tuple[Case, Victim, Path]) -> None:
    case, victim, images = ours
    run("criu", "restore", images, "--restore-detached")
    assert problems(victim, case.lost) == []


@pytest.mark.direction(THEIRS)
@pytest.mark.parametrize("case", parameters(by_criu=True))
def test_we_restore_crius(case: Case, tmp_path: Path, programs: dict[str, Path]) -> None:
    with started(case, tmp_path, programs, case.rseq) as (lab, victim):
        images = lab.images("1")
        run("criu", "dump", images, "--tree", str(victim.pid))
        lab.reap()
        lab.restore(images)
        assert problems(victim, case.lost_in_dump) == []


@pytest.mark.direction(OUR_CHAIN)
@pytest.mark.parametrize("memory", [pytest.param(one, marks=pytest.mark.kind(*one.kinds), id=one.program) for one in MEMORIES])
def test_criu_restores_a_chain_of_our_dumps(memory: Memory, tmp_path: Path, programs: dict[str, Path]) -> None:
    if memory.program == "guards" and not check(["pagemap_scan_guard_pages"])[0].ok:
        pytest.skip("this kernel does not tell guard regions")
    with pool(memory.huge_pages) if memory.huge_pages else nullcontext(), started(memory, tmp_path, programs) as (lab, victim):
        chain = [lab.images("1"), lab.images("2")]
        run("stillframe", "dump", chain[0], "--tree", str(victim.pid), "--track-mem", "--leave-running")
        assert victim.ask(memory.change) == "ok"
        victim.await_rest()
        run("stillframe", "dump", chain[1], "--tree", str(victim.pid), "--prev-images-dir", "../1/")
        for images in reversed(chain):
            lab.reap()
            run("criu", "restore", images, "--restore-detached")
            assert victim.ask(memory.check) == "ok"
        lab.reap()
