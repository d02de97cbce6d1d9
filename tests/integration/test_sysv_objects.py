# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System V semaphores and message queues: the same ones, with the values and messages of the dump."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _engine.kernel import sysvipc_objects
from _engine.kernel.sysvipc_objects import IpcObject
from look import assert_same, look
from victim import Lab, Victim, sentence


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave nothing of a test behind."""
    before = set(sysvipc_objects.objects())
    yield
    for kind, number in set(sysvipc_objects.objects()) - before:
        sysvipc_objects.remove(kind, number)


def of(victim: Victim) -> dict[tuple[str, int], IpcObject]:
    """Return what VICTIM has made, but for who used it last."""
    found = sysvipc_objects.objects()
    return {which: one._replace(users=()) for which, one in found.items() if one.key in (victim.pid, victim.pid + 1)}


def remove(victim: Victim) -> None:
    for kind, number in of(victim):
        sysvipc_objects.remove(kind, number)


@pytest.mark.parametrize("undone", ["", "undo"])
def test_they_are_as_they_were(lab: Lab, undone: str) -> None:
    victim = lab.start("sysv_objects", undone)
    assert victim.ask() == "ok"
    victim.await_rest()
    seen, made = look(victim.pid), of(victim)
    assert len(made) == 2
    path = lab.images("1")
    told = lab.run("dump", "--tree", victim.pid, "--images-dir", path, "--leave-running", "-v2")
    assert "SEM_UNDO" in told
    assert victim.ask() == "ok" and victim.ask("change") == "ok" and victim.ask("changed") == "ok"
    last = lab.dump(victim.pid, "2")
    lab.reap()
    for images, answers in ((last, "changed"), (path, "check"), (last, "changed")):
        lab.restore(images)
        victim.await_rest()
        assert victim.ask(answers) == "ok"
        assert victim.ask("pass") == "ok"
        lab.end(victim.pid)
    remove(victim)
    lab.restore(path)
    victim.await_rest()
    assert_same(seen, look(victim.pid))
    assert of(victim) == made
    assert victim.ask() == "ok"
    assert victim.ask("pass") == "ok"


def test_what_others_have_is_left_alone(lab: Lab) -> None:
    victim = lab.start("sysv_objects")
    images = lab.dump(victim.pid, "1")
    lab.reap()
    semaphores = next(one for one in of(victim).values() if one.kind == sysvipc_objects.SEMAPHORES)
    remove(victim)
    other = sysvipc_objects.create(semaphores.kind, semaphores.id, semaphores.key + 5, 0o600, 1, (0, 0))
    refused = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert other == semaphores.id and "its id is used for another" in refused
    assert set(sysvipc_objects.objects()) & set(of(victim)) == set()
    sysvipc_objects.remove(semaphores.kind, other)
    lab.restore(images)
    assert victim.ask() == "ok"
