# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared memory in chains: a dump holds what has changed of it, and each dump restores all of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from _engine.images.chain import open_chain
from _engine.images.pagemap import iterate_runs

from victim import Lab, Victim, sentence

FIRST = 2048
"""Pages of each object that the program has written to when it is ready, or nearly so; from then on it writes to an eighth of them."""


@pytest.fixture
def victim(lab: Lab) -> Victim:
    """It writes to two objects, all the time, also as children that come and go, by write(2), and punches holes."""
    return lab.start("shared_writer")


def chain(lab: Lab, victim: Victim, *options: str) -> list[Path]:
    """Dump VICTIM four times, the last one to its end."""
    dumps: list[Path] = []
    for number in range(1, 5):
        more = ["--prev-images-dir", f"../{number - 1}"] if number > 1 else []
        dumps.append(lab.dump(victim.pid, str(number), "--track-mem", *options, *more, *(["--leave-running"] if number < 4 else [])))
    lab.reap()
    return dumps


def pages(dump: Path) -> tuple[int, int]:
    """Return how many pages of shared memory DUMP holds, and how many it leaves to its parent."""
    images = open_chain(str(dump), verify=False).top.images
    runs = [run for name in images.names() if name.startswith("pagemap-shmem-") for run in iterate_runs(images, name)]
    return sum(run.pages for run in runs if not run.in_parent), sum(run.pages for run in runs if run.in_parent)


def restores(lab: Lab, victim: Victim, dump: Path) -> None:
    lab.restore(dump)
    assert victim.ask() == "ok"
    lab.end(victim.pid)


@pytest.mark.parametrize("freeze", ["auto", "snapshot", "hold"])
def test_each_dump_is_restored(lab: Lab, victim: Victim, freeze: str) -> None:
    dumps = chain(lab, victim, f"--freeze={freeze}")
    held = [pages(dump) for dump in dumps]
    assert held[0][0] > FIRST and held[0][1] == 0
    assert all(here < FIRST / 2 and there > FIRST for here, there in held[1:]), held
    for dump in (*dumps, dumps[1]):
        restores(lab, victim, dump)


def test_objects_that_grow_and_come_anew(lab: Lab, victim: Victim) -> None:
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("grow") == victim.ask("more") == "ok"
    second = lab.dump(victim.pid, "2", "--track-mem", "--prev-images-dir=../1")
    lab.reap()
    for dump in (second, first, second):
        restores(lab, victim, dump)


def test_dedup_and_squash(lab: Lab, victim: Victim) -> None:
    dumps = chain(lab, victim)
    lab.run("dedup", "--images-dir", dumps[-1])
    lab.run("verify", "--images-dir", dumps[-1])
    restores(lab, victim, dumps[-1])
    lab.run("squash", "--images-dir", dumps[-1])
    assert pages(dumps[-1])[1] == 0
    lab.restore(dumps[-1])
    assert victim.ask() == "ok"
    on_top = lab.dump(victim.pid, "5", "--prev-images-dir=../4")
    lab.reap()
    assert pages(on_top)[0] < FIRST / 2
    restores(lab, victim, on_top)


def test_auto_dedup(lab: Lab, victim: Victim) -> None:
    dumps = chain(lab, victim, "--auto-dedup")
    restores(lab, victim, dumps[-1])


def test_damaged_digests_are_found(lab: Lab, victim: Victim) -> None:
    first = lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    for image in first.glob("digests-shmem-*.img"):
        content = bytearray(image.read_bytes())
        content[len(content) // 2] ^= 1
        image.write_bytes(content)
    refused = lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("2"), "--prev-images-dir=../1", "--leave-running")
    assert "digests-shmem-" in sentence(refused) and "checksum" in sentence(refused)
    assert victim.ask() == "ok"


def test_without_digests_all_is_written(lab: Lab, victim: Victim) -> None:
    first = lab.dump(victim.pid, "1", "--leave-running")
    assert not list(first.glob("digests-shmem-*"))
    second = lab.dump(victim.pid, "2", "--prev-images-dir=../1", "--leave-running")
    assert pages(second)[0] > FIRST and pages(second)[1] == 0
    os.kill(victim.pid, signal.SIGKILL)
    lab.reap()
    restores(lab, victim, second)
