# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree with many things that cannot be carried: each verb names all of them in one answer, and the tree notices nothing."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from _engine.dump import dump, plan
from _engine.errors import Obstacle, UnsupportedError
from _engine.options import DumpOptions
from _engine.pre_dump import pre_dump
from _engine.process_info import process_info
from look import assert_same, look
from victim import Lab, Victim

LOG = logging.getLogger(__name__)


@pytest.fixture
def victim(lab: Lab) -> Victim:
    """tests/programs/uncarriable.c at rest."""
    started = lab.start("uncarriable")
    started.await_rest()
    return started


def held(victim: Victim) -> list[tuple[int, str, str]]:
    """Return what VICTIM holds: the process, where, and a word of why."""
    lines = [line.split("\t") for line in (victim.directory / "held").read_text().splitlines()]
    return [(int(pid), where, why) for pid, where, why in lines]


def refused(verb: Callable[[DumpOptions, logging.Logger], object], options: DumpOptions) -> tuple[Obstacle, ...]:
    """Return the obstacles that VERB names."""
    with pytest.raises(UnsupportedError) as caught:
        verb(options, LOG)
    assert all(str(obstacle) in str(caught.value) for obstacle in caught.value.obstacles)
    return tuple(caught.value.obstacles)


VERBS: dict[str, Callable[[DumpOptions], tuple[Obstacle, ...]]] = {
    "dump": lambda options: refused(dump, options),
    "pre_dump": lambda options: refused(pre_dump, options),
    "check_mode": lambda options: plan(options).obstacles,
    "process_info": lambda options: process_info(options.tree).obstacles,
}


def test_all_of_it_is_named_and_nothing_is_touched(lab: Lab, victim: Victim) -> None:
    expected = held(victim)
    assert len(expected) >= 10
    before, answers = look(victim.pid), {}
    for verb, ask in VERBS.items():
        images = lab.images(verb)
        answers[verb] = ask(DumpOptions(tree=victim.pid, images_dir=str(images), leave_running=True, track_mem=True))
        assert list(images.iterdir()) == []
    assert_same(before, look(victim.pid))
    assert victim.ask() == "ok", "it saw a stop"
    for verb, found in answers.items():
        assert missing(expected, found) == [], verb
        assert all(obstacle.why and obstacle.remedy for obstacle in found)
    assert {*answers["dump"]} == {*answers["pre_dump"]} == {*answers["check_mode"]} == {*answers["process_info"]}


def missing(expected: list[tuple[int, str, str]], found: tuple[Obstacle, ...]) -> list[tuple[int, str, str]]:
    """Return what of EXPECTED is not in what was FOUND."""

    def is_it(obstacle: Obstacle, pid: int, where: str, why: str) -> bool:
        named = re.search(rf"{re.escape(where)}\b", obstacle.where)
        return obstacle.pid == pid and bool(named) and bool(re.search(why, f"{obstacle.where} {obstacle.why}"))

    return [one for one in expected if not any(is_it(obstacle, *one) for obstacle in found)]


def test_the_program_says_it_in_one_sentence(lab: Lab, victim: Victim) -> None:
    done = lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1"), "--leave-running")
    assert done.returncode == 1
    for pid, where, why in held(victim):
        assert re.search(rf"process {pid}\b", done.stderr) and where in done.stderr and re.search(why, done.stderr), where
