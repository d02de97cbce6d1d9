# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is not plain, dumped by one of us and CRIU, restored by the other: huge pages, rings, a vDSO of another build."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))
import test_packet_rings as packet_rings  # noqa: E402
from test_hugetlb import NEEDED, pool  # noqa: E402

from kinds import OURS, THEIRS  # noqa: E402
from other_vdso import Altered, image_of, real_vdso, vdso_of  # noqa: E402
from victim import Lab, become_subreaper, children  # noqa: E402
from victims import CRIU, run  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU: set STILLFRAME_CRIU to one that runs here (tests/interop/get-criu fetches it)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as CRIU does"),
]
BOTH_WAYS = pytest.mark.parametrize(("dumper", "restorer"), [("criu", "stillframe"), ("stillframe", "criu")])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A directory, and the victim compiled; all processes are gone afterwards."""
    become_subreaper()
    made = Lab(tmp_path, {"": tmp_path}, children())
    try:
        yield made
    finally:
        made.reap()


@pytest.mark.kind("vDSO of another kernel build")
@pytest.mark.direction(OURS, THEIRS)
@pytest.mark.parametrize(("first", "second"), [("criu", "stillframe"), ("stillframe", "criu")])
def test_each_knows_what_the_other_made_of_it(lab: Lab, first: str, second: str) -> None:
    victim = lab.start("vdso")
    place = vdso_of(victim.pid).start
    images = lab.images("1")
    run(second, "dump", images, "--tree", str(victim.pid))
    Altered(images, victim.pid, place).swap("__vdso_time", "__vdso_getcpu")
    swapped = image_of(os.getpid()).offsets()
    swapped["__vdso_time"], swapped["__vdso_getcpu"] = swapped["__vdso_getcpu"], swapped["__vdso_time"]
    for program in (first, second):
        lab.reap()
        run(program, "restore", images, "--restore-detached")
        assert vdso_of(victim.pid).start == place and len(real_vdso(victim.pid)) == 1 and real_vdso(victim.pid) != [place]
        for name in ("time", "getcpu"):
            assert victim.ask(f"{name} {swapped[f'__vdso_{name}']}") == "ok"
        if program == first:
            images = lab.images("2")
            run(second, "dump", images, "--tree", str(victim.pid))


@pytest.mark.kind("huge pages")
@BOTH_WAYS
def test_huge_pages(lab: Lab, dumper: str, restorer: str) -> None:
    with pool(NEEDED):
        victim = lab.start("huge")
        images = lab.images("1")
        run(dumper, "dump", images, "--tree", str(victim.pid))
        lab.reap()
        run(restorer, "restore", images, "--restore-detached")
        assert victim.ask() == "ok"
        lab.reap()


@pytest.mark.kind("asynchronous I/O")
@BOTH_WAYS
def test_asynchronous_io(lab: Lab, dumper: str, restorer: str) -> None:
    victim = lab.start("aio")
    images = lab.images("1")
    run(dumper, "dump", images, "--tree", str(victim.pid))
    lab.reap()
    run(restorer, "restore", images, "--restore-detached")
    assert victim.ask("fetch") == "ok"


@pytest.mark.kind("UDP-lite, raw, packet")
@BOTH_WAYS
def test_rings_of_packet_sockets(lab: Lab, dumper: str, restorer: str) -> None:
    victim = packet_rings.start(lab)
    images = lab.images("1")
    run(dumper, "dump", images, "--tree", str(victim.pid))
    lab.reap()
    run(restorer, "restore", images, "--restore-detached")
    packet_rings.send("one", "two")
    assert victim.ask("tell") == "one two"
