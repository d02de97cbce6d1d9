# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Contexts of asynchronous I/O, with events that nobody has fetched yet."""

from __future__ import annotations

import os
from pathlib import Path

from _engine.errors import TargetError
from _engine.images.image import ImagesDir
from _engine.kernel import procfs
from _engine.resources.memory import aio
from _engine.resources.memory.mapping import survey
from _engine.tracee.freeze import FrozenTree
from victim import Lab, sentence, until

RINGS = 4


def rings(pid: int) -> list[procfs.Area]:
    """Return the rings of PID."""
    return [area._replace(inode=0) for area in procfs.smaps(pid) if area.name.startswith("/[aio]")]


def test_events_are_fetched_after_the_restore(lab: Lab) -> None:
    victim = lab.start("aio")
    before = rings(victim.pid)
    assert len(before) == RINGS
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("fetch") == "ok"
    second = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    for images in (second, first):
        lab.reap()
        lab.restore(images)
        assert rings(victim.pid) == before
        assert victim.ask("fetch") == "ok"
        assert victim.ask("fetch") == "ok"


def test_one_that_is_on_its_way(lab: Lab) -> None:
    victim = lab.start("aio")
    os.mkfifo(victim.directory / "wake")
    wake = os.open(victim.directory / "wake", os.O_RDWR)
    assert victim.ask("poll") == "ok"
    with FrozenTree(victim.pid, 20) as tree:
        seen = aio.collect(tree.tasks[0].leader, survey(victim.pid))
        for ring in seen:
            ring.check()
        os.write(wake, b"x")

        def noticed() -> bool:
            try:
                for ring in seen:
                    ring.check()
            except TargetError as error:
                return "on its way" in str(error)
            return False

        until(noticed, "the event goes unnoticed")
    os.close(wake)


def test_the_ring_of_another_process(lab: Lab) -> None:
    victim = lab.start("aio")
    assert victim.ask("fork") == "ok"
    said = sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1")))
    assert "mapping" in said and "ring of another process" in said
    assert victim.ask("fetch") == "ok"


def test_a_damaged_ring(lab: Lab) -> None:
    victim = lab.start("aio")
    images = lab.dump(victim.pid, "1", "--leave-running")
    start = rings(victim.pid)[0].start
    lab.end(victim.pid)
    entries = ImagesDir(str(images)).read(f"mm-{victim.pid}")
    next(entry for entry in entries[0].aios if entry.id == start).ring_len += 4096
    os.unlink(images / f"mm-{victim.pid}.img")
    ImagesDir(str(images)).write(f"mm-{victim.pid}", entries)
    (images / "stillframe.json").unlink()
    assert "AIO ring" in sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert not Path(f"/proc/{victim.pid}").exists()


def test_too_many_for_the_machine(lab: Lab) -> None:
    victim = lab.start("aio")
    images = lab.dump(victim.pid, "1")
    lab.reap()
    limit = Path("/proc/sys/fs/aio-max-nr")
    before, in_use = limit.read_text(), int(Path("/proc/sys/fs/aio-nr").read_text())
    try:
        limit.write_text(str(in_use + 100))
        said = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    finally:
        limit.write_text(before)
    assert "asynchronous I/O" in said and "aio-max-nr" in said
    lab.restore(images)
    assert victim.ask("fetch") == "ok"
