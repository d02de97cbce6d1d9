# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages of hugetlbfs, however a program has them; and a machine that has too few of them."""

from __future__ import annotations

import mmap
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _engine.kernel import hugetlb, procfs
from victim import Lab, Victim, sentence

SHIFT = 21
NEEDED = 24
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")


@contextmanager
def pool(free: int) -> Iterator[None]:
    """Let the machine have FREE free huge pages; skip the test where it gives none."""
    if not POOL.exists():
        pytest.skip("this kernel has no huge pages of 2 MiB")
    before = POOL.read_text()
    POOL.write_text(str(int(before) + free - hugetlb.free(SHIFT)))
    try:
        if hugetlb.free(SHIFT) < free:
            pytest.skip(f"this machine gives {hugetlb.free(SHIFT)} huge pages, {free} are needed")
        yield
    finally:
        POOL.write_text(before)


@pytest.fixture
def victim(lab: Lab) -> Iterator[Victim]:
    """A program that holds huge pages in all ways."""
    with pool(NEEDED):
        started = lab.start("huge", "all")
        yield started
        lab.reap()


def huge_areas(pid: int) -> list[tuple[int, int, str, str, bool]]:
    """Return the mappings of huge pages of PID."""
    areas = [area for area in procfs.smaps(pid) if "ht" in area.vm_flags]
    return [(area.start, area.end, area.perms, area.name.partition("SYSV")[0], "nr" in area.vm_flags) for area in areas]


def test_all_of_it(lab: Lab, victim: Victim) -> None:
    before = huge_areas(victim.pid)
    assert len(before) == 6
    images = lab.dump(victim.pid, "1")
    lab.reap()
    lab.restore(images)
    assert huge_areas(victim.pid) == before
    assert victim.ask() == "ok"
    assert victim.ask("change") == "ok"
    assert victim.ask() == "ok"


def test_a_chain(lab: Lab, victim: Victim) -> None:
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("change") == "ok"
    second = lab.dump(victim.pid, "2", "--track-mem", "--prev-images-dir=../1", "--leave-running", "--freeze=snapshot")
    assert victim.ask("change") == "ok"
    third = lab.dump(victim.pid, "3", "--prev-images-dir=../2")
    for images in (third, first, second):
        lab.reap()
        lab.restore(images)
        assert victim.ask() == "ok"


def test_too_few_of_them(lab: Lab, victim: Victim) -> None:
    images = lab.dump(victim.pid, "1")
    lab.reap()
    with mmap.mmap(-1, (hugetlb.free(SHIFT) - 4) << SHIFT, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | hugetlb.MAP_HUGETLB):
        said = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert "huge pages of 2048 KiB: the dump needs" in said and "raise nr_hugepages" in said
    lab.restore(images)
    assert victim.ask() == "ok"


MAPS_A_FILE = """
import mmap, os, signal, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 1 << 21)
memory = mmap.mmap(file, 1 << 21)
os.close(file)
print("ready", flush=True)
signal.pause()
"""


def test_a_mounted_hugetlbfs(lab: Lab, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", mounted], capture_output=True, check=False).returncode:
        pytest.skip("hugetlbfs cannot be mounted here")
    try:
        with pool(2):
            process = lab.spawn([sys.executable, "-c", MAPS_A_FILE, str(mounted / "file")], stdout=subprocess.PIPE)
            assert process.stdout and process.stdout.readline() == b"ready\n"
            said = sentence(lab.engine("dump", "--tree", process.pid, "--images-dir", lab.images("1"), "--leave-running"))
            lab.end(process.pid)
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert f"process {process.pid}, mapping" in said and "mounted hugetlbfs" in said
