# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps by CRIU are read, and a chain that our code made of one, deduplicated, is restored by CRIU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from _engine.dedup import dedup
from _engine.image_info import image_info
from _engine.images.chain import open_chain
from _engine.images.directory import dump_files
from _engine.images.image import ImagesDir
from _engine.images.pagemap import PAGE_SIZE, Pagemap, Run, iterate_runs, pages_path, read_pagemap, write_pagemap
from _engine.squash import squash
from _engine.verify import verify

CRIU = os.environ.get("STILLFRAME_CRIU", "")
VICTIM = """
import mmap, signal, sys
memory = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pattern = b"".join(number.to_bytes(8, "little") * 512 for number in range(1, 1025))
memory[:] = pattern
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
open(sys.argv[1] + ".ready", "w").close()
signal.sigwait({signal.SIGUSR1})
with open(sys.argv[1], "w") as answer:
    answer.write("whole" if memory[:] == pattern else "damaged")
"""

pytestmark = [
    pytest.mark.skipif(not CRIU, reason="no CRIU that runs on this kernel is named in STILLFRAME_CRIU (tests/interop/get-criu)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="CRIU needs root"),
]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or (path.suffix != ".ready" and not path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def criu(*arguments: str) -> None:
    done = subprocess.run([CRIU, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def dumped(tmp_path: Path) -> Iterator[Tuple[Path, int]]:
    """Yield the directory of a dump by CRIU and the pid of the task in it, which has ended."""
    images = tmp_path / "1"
    images.mkdir()
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path / "answer")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
    )
    try:
        wait_for(tmp_path / "answer.ready")
        criu("dump", "--tree", str(victim.pid), "--images-dir", str(images), "--log-file", "dump.log")
    finally:
        victim.kill()
        victim.wait()
    yield images, victim.pid


def restore_and_ask(images: Path, pid: int) -> str:
    """Restore the victim with CRIU, let it check its memory, and return its answer."""
    criu("restore", "--images-dir", str(images), "--restore-detached", "--log-file", "restore.log")
    answer = images.parent / "answer"
    os.kill(pid, signal.SIGUSR1)
    wait_for(answer)
    return answer.read_text()


def split(source: Path, top: Path, name: str) -> List[int]:
    """Leave every second page of pagemap NAME in the parent SOURCE and put the others into TOP; return those left there."""
    images = ImagesDir(str(top))
    pagemap = read_pagemap(ImagesDir(str(source)), name)
    whole = Path(pages_path(str(source), pagemap.pages_id)).read_bytes()
    runs, kept, left, index = [], [], [], 0
    for run in pagemap.runs:
        for number in range(run.pages):
            address, in_parent = run.start + number * PAGE_SIZE, index % 2 == 0
            runs.append(Run(address, 1, in_parent))
            if in_parent:
                left.append(address)
            else:
                kept.append(whole[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])
            index += 1
    write_pagemap(images, name, Pagemap(pagemap.pages_id, tuple(runs)))
    Path(pages_path(str(top), pagemap.pages_id)).write_bytes(b"".join(kept))
    return left


def test_every_image_of_criu_is_read_and_written_back_byte_for_byte(dumped: Tuple[Path, int], tmp_path: Path) -> None:
    source, copy = ImagesDir(str(dumped[0])), ImagesDir(str(tmp_path))
    names = source.names()
    assert {"inventory", "pstree", "files", f"core-{dumped[1]}", f"mm-{dumped[1]}", "stats-dump"} <= set(names)
    images = [name for name in dump_files(source.path) if not name.startswith("pages-")]
    assert len(names) == len(images), "every file has a name of ours"
    for name in names:
        copy.write(name, source.entries(name))
        assert Path(copy.file(name)).read_bytes() == Path(source.file(name)).read_bytes(), name


def test_a_chain_of_criu_opens(dumped: Tuple[Path, int]) -> None:
    chain = open_chain(str(dumped[0]))
    name = f"pagemap-{dumped[1]}"
    assert chain.restorable() and chain.dump_id == ""
    assert sum(extent.pages for extent in chain.extents(name)) == sum(run.pages for run in iterate_runs(chain.top.images, name))
    info = image_info(str(dumped[0]))
    assert info.made_by == "criu" and [task.pid for task in info.tasks] == [dumped[1]] and info.timings["frozen_time"] > 0
    assert info.tasks[0].comm.startswith("python")


def test_criu_restores_a_deduplicated_chain_of_ours(dumped: Tuple[Path, int], tmp_path: Path) -> None:
    first, pid = dumped
    top = tmp_path / "2"
    shutil.copytree(first, top)
    os.symlink("../1", top / "parent")
    left = split(first, top, f"pagemap-{pid}")
    assert len(left) > 500
    result = dedup(str(top))
    assert result.bytes_freed > 2 << 20 and result.punched
    assert not open_chain(str(first), verify=False).restorable()
    assert restore_and_ask(top, pid) == "whole"


def test_criu_restores_what_was_squashed_of_its_own(dumped: Tuple[Path, int], tmp_path: Path) -> None:
    first, pid = dumped
    assert verify(str(first)).sound
    top = tmp_path / "2"
    shutil.copytree(first, top)
    os.symlink("../1", top / "parent")
    split(first, top, f"pagemap-{pid}")
    assert verify(str(top)).sound
    assert squash(str(top)).removed == (str(first),)
    assert not first.exists() and not os.path.lexists(top / "parent")
    assert verify(str(top)).sound
    assert restore_and_ask(top, pid) == "whole"
