# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy-on-write pages that a parent and its children share: shared again after a restore, and nothing else is."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from _engine.images.image import ImagesDir
from look import assert_same, look, tree
from victim import Lab, Victim

PAGE = os.sysconf("SC_PAGE_SIZE")
COMMON = 2048
"""Pages that nearly all five processes have in common."""


def used(root: int) -> int:
    """Return the bytes of memory that the tree under ROOT takes, what is shared counted once."""
    lines = [line.split() for pid in tree(root) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line[1]) << 10 for line in lines if line[0] == "Pss:")


def frames(root: int) -> dict[int, int]:
    """Return by page frame how many processes of the tree under ROOT have it in private memory of their own."""
    found: dict[int, int] = {}
    for pid in tree(root):
        with open(f"/proc/{pid}/pagemap", "rb") as pagemap, open(f"/proc/{pid}/maps") as maps:
            for line in maps:
                span, perms, *_rest = line.split()
                start, end = (int(word, 16) // PAGE for word in span.split("-"))
                if perms[3] == "p" and end < 1 << 35:
                    pagemap.seek(start * 8)
                    for (entry,) in struct.iter_unpack("<Q", pagemap.read((end - start) * 8)):
                        if entry >> 61 == 0b100:  # present, and not a file's
                            frame = entry & (1 << 55) - 1
                            found[frame] = found.get(frame, 0) + 1
    return found


def await_rest(victim: Victim) -> None:
    """Return when all of the tree waits for orders."""
    victim.await_rest()
    for pid in tree(victim.pid):
        Victim(victim.directory, pid).await_rest()


def goes_through(lab: Lab, victim: Victim, name: str, *options: str) -> None:
    """Dump the tree of VICTIM, which ends it, restore it, and compare it with what was seen before."""
    await_rest(victim)
    before, memory = look(victim.pid), used(victim.pid)
    path = lab.dump(victim.pid, name, *options)
    lab.reap()
    lab.restore(path)
    await_rest(victim)
    assert used(victim.pid) < memory * 1.1 + (1 << 20)
    if os.geteuid() == 0:
        shared = frames(victim.pid)
        assert sum(1 for processes in shared.values() if processes == 5) > COMMON - 20
    stats = ImagesDir(str(path)).read_one("stats-restore").restore
    assert stats.pages_skipped_cow > 4 * (COMMON - 20)
    assert_same(before, look(victim.pid))
    assert victim.ask() == "ok"
    assert victim.ask("change") == "ok"


def test_pages_stay_shared_and_no_others_are(lab: Lab) -> None:
    victim = lab.start("family")
    goes_through(lab, victim, "1")
    goes_through(lab, victim, "2")
    lab.end(victim.pid)


def test_in_a_chain(lab: Lab) -> None:
    victim = lab.start("family")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    assert victim.ask("change") == "ok"
    lab.run("pre-dump", "--tree", victim.pid, "--images-dir", lab.images("2"), "--prev-images-dir=../1")
    assert victim.ask("change") == "ok"
    goes_through(lab, victim, "3", "--prev-images-dir=../2", "--track-mem")
    lab.end(victim.pid)
