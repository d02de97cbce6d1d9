# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every victim through a whole chain: dumped while it runs, again, the last time, and restored from each of the dumps."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from look import assert_same, look
from victim import Lab, Victim, children, state


@dataclass(frozen=True)
class Kind:
    """A victim and what to expect of it."""

    program: str
    change: str = ""
    """What to ask of it between two dumps, so that something changes."""
    extra: str = ""
    """A further question after a restore."""
    still: bool = True
    """Whether its memory stands still while it waits for a question."""
    spinning: bool = False
    rseq: bool = False
    moving: tuple[str, ...] = ()
    """Ends of the names of what changes by itself."""


KINDS = (
    Kind("registers", spinning=True),
    Kind("threads", still=False, moving=("SigBlk",), rseq=True),
    Kind("memory", change="change", extra="fork"),
    Kind("signals", still=False, moving=("ShdPnd", "SigQ")),
    Kind("channels"),
    Kind("sockets", extra="take"),
    Kind("identity"),
)


def seen(victim: Victim, kind: Kind) -> dict[str, object]:
    """Return what is seen of VICTIM when it has come to rest."""
    victim.await_rest(kind.spinning)
    return look(victim.pid, kind.still)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.program)
@pytest.mark.parametrize("freeze", ["auto", "snapshot", "hold"])
def test_each_dump_of_a_chain_is_restored(lab: Lab, kind: Kind, freeze: str) -> None:
    victim = lab.start(kind.program, rseq=kind.rseq)
    assert victim.ask() == "ok"
    dumps: list[tuple[Path, dict[str, object]]] = []
    for number in (1, 2, 3):
        if kind.change and number > 1:
            assert victim.ask(kind.change) == "ok"
        before = seen(victim, kind)
        options = ["--track-mem", f"--freeze={freeze}"] + (["--leave-running"] if number < 3 else [])
        options += ["--prev-images-dir", f"../{number - 1}"] if number > 1 else []
        dumps.append((lab.dump(victim.pid, str(number), *options), before))
        if number < 3:
            assert_same(before, seen(victim, kind), *kind.moving)
            assert victim.ask() == "ok"
    assert not os.path.exists(f"/proc/{victim.pid}/exe")
    lab.reap()
    for path, before in (*dumps, dumps[1]):
        lab.restore(path)
        assert_same(before, seen(victim, kind), *kind.moving)
        assert victim.ask() == "ok"
        if kind.extra:
            assert victim.ask(kind.extra) == "ok"
            assert victim.ask() == "ok"
        lab.end(victim.pid)


def test_a_snapshot_that_nobody_has_reaped_yet_is_in_nobodys_way(lab: Lab) -> None:
    victim = lab.start("memory")
    path = lab.dump(victim.pid, "1", "--leave-running", "--freeze=snapshot")
    os.kill(victim.pid, signal.SIGKILL)
    os.waitpid(victim.pid, 0)
    left = children() - lab.before  # we are the reaper of orphans, and take our time
    assert left and all(state(pid) == "Z" for pid in left)
    lab.restore(path)
    assert victim.ask() == "ok"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.program)
def test_a_restored_tree_is_dumped_on_top_of_what_it_came_from(lab: Lab, kind: Kind) -> None:
    victim = lab.start(kind.program, rseq=kind.rseq)
    first = lab.dump(victim.pid, "1", "--track-mem")
    lab.reap()
    lab.restore(first, "--track-mem")
    assert victim.ask() == "ok"
    if kind.change:
        assert victim.ask(kind.change) == "ok"
    before = seen(victim, kind)
    second = lab.dump(victim.pid, "2", "--prev-images-dir", "../1")
    lab.reap()
    lab.restore(second)
    assert_same(before, seen(victim, kind), *kind.moving)
    assert victim.ask() == "ok"
