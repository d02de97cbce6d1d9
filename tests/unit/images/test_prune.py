# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""prune keeps what its rule names, whole and restorable, and removes the rest."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Callable, List, Mapping

import pytest
from killed import in_memory, killed_before
from made_dumps import Made, Maker

from _engine.chains.listing import Listed
from _engine.chains.retention import Rule, check, reasons
from _engine.dedup import dedup
from _engine.errors import ChainError, UsageError
from _engine.images.chain import open_chain
from _engine.images.manifest import PRE_DUMP, read_manifest, write_manifest
from _engine.prune import prune

Reader = Callable[[str, str], Mapping[int, int]]
NAME = "pagemap-100"
CONTENT = {
    "1": {0: 10, 1: 11, 2: 12, 3: 13},
    "2": {0: 10, 1: 21, 2: 12, 3: 13},
    "3": {0: 10, 1: 21, 2: 32, 3: 13},
    "4": {0: 10, 1: 21, 2: 32, 3: 43},
    "5": {0: 10, 1: 21, 2: 52, 3: 43},
}
NOW = datetime(2026, 11, 25, 12, 30, tzinfo=timezone.utc)


@pytest.fixture
def five(make_dump: Maker) -> List[Made]:
    """Return a chain of five dumps, an hour between each two."""
    made: List[Made] = []
    for name, pages in CONTENT.items():
        before = CONTENT.get(str(int(name) - 1), {})
        given = {page: "parent" if before.get(page) == byte else byte for page, byte in pages.items()}
        made.append(make_dump(name, {NAME: given}, made[-1] if made else None))
        date(made[-1].path, NOW - timedelta(hours=5 - int(name)))
    return made


def date(path: str, time: datetime) -> None:
    manifest = read_manifest(path)
    assert manifest is not None
    write_manifest(path, replace(manifest, created=time.isoformat()))


def names(root: str) -> List[str]:
    return sorted(os.listdir(root))


def root_of(made: List[Made]) -> str:
    return os.path.dirname(made[0].path)


def kept(times: List[datetime], **rule: object) -> List[int]:
    """Return the numbers of those of TIMES whose dumps are kept."""
    dumps = [Listed(str(number), "", time, True, False, False) for number, time in enumerate(times)]
    return sorted(map(int, reasons(dumps, Rule(**rule), NOW)))  # type: ignore[arg-type]


def test_rules() -> None:
    hours = [NOW - timedelta(hours=number) for number in range(200)]
    assert kept(hours, last=3) == [0, 1, 2]
    assert kept(hours, hourly=2) == [0, 1]
    assert kept(hours, daily=3) == [0, 13, 37]
    assert kept(hours, weekly=2) == [0, 61], "Wednesday noon, and the Sunday night before"
    assert kept(hours, within="1d12h") == list(range(37))
    assert kept(hours, last=1, daily=2) == [0, 13]
    assert kept([NOW - timedelta(days=9)], within="1d") == [0], "the newest is never removed"
    minutes = [NOW - timedelta(minutes=number) for number in range(40)]
    assert kept(minutes, hourly=5) == [0, 31]


@pytest.mark.parametrize("rule", [Rule(), Rule(last=-1), Rule(within="5"), Rule(within="3m"), Rule(within="d")])
def test_rules_without_sense(rule: Rule) -> None:
    with pytest.raises(UsageError, match=";|takes a time"):
        check(rule)


def test_what_is_kept_is_made_anew_where_its_parent_goes(five: List[Made], read_back: Reader) -> None:
    root = root_of(five)
    Path(five[2].path, "pinned").touch()
    told = prune(root, Rule(last=1), check=True)
    assert names(root) == ["1", "2", "3", "4", "5"]
    result = prune(root, Rule(last=1))
    assert names(root) == ["3", "5"] and Path(five[2].path, "pinned").exists()
    assert (result.kept, result.removed) == (told.kept, told.removed)
    assert [(Path(one.path).name, one.reasons, one.onto, one.squashed) for one in result.kept] == [
        ("3", ("pinned",), None, True),
        ("5", ("last",), five[2].path, True),
    ]
    assert read_back(five[2].path, NAME) == CONTENT["3"] and read_back(five[4].path, NAME) == CONTENT["5"]
    assert os.path.getsize(five[4].pages_file()) == 2 * 4096, "one page of its own, one of the dump between"
    assert result.bytes_freed == result.bytes_before - result.bytes_after
    again = prune(root, Rule(last=1))
    assert (again.removed, again.bytes_freed) == ((), 0) and not any(one.squashed for one in again.kept)


def test_old_chains_go_without_touching_the_new(five: List[Made], make_dump: Maker) -> None:
    new = make_dump("new", {NAME: {0: 1}})
    date(new.path, NOW)
    result = prune(root_of(five), Rule(last=2))
    assert names(root_of(five)) == ["5", "new"] and [Path(path).name for path in result.removed] == ["4", "3", "2", "1"]


def test_pre_dumps_stay_while_a_dump_is_to_come(five: List[Made], make_dump: Maker) -> None:
    ahead = make_dump("6", {NAME: {0: "parent", 1: 2}}, five[4], PRE_DUMP)
    date(ahead.path, NOW)
    prune(root_of(five), Rule(last=2))
    assert names(root_of(five)) == ["4", "5", "6"]
    seventh = make_dump("7", {NAME: {0: "parent", 1: "parent"}}, ahead)
    date(seventh.path, NOW)
    prune(root_of(five), Rule(last=1))
    assert names(root_of(five)) == ["7"]
    open_chain(seventh.path)


def test_what_lost_pages_counts_for_nothing(five: List[Made], read_back: Reader) -> None:
    dedup(five[3].path)
    prune(root_of(five), Rule(last=3))
    assert names(root_of(five)) == ["1", "4", "5"] or names(root_of(five)) == ["4", "5"]
    assert read_back(five[4].path, NAME) == CONTENT["5"] and read_back(five[3].path, NAME) == CONTENT["4"]


def test_nothing_goes_when_what_is_kept_is_damaged(five: List[Made]) -> None:
    with open(five[0].pages_file(), "r+b") as file:
        file.write(b"\xff")
    with pytest.raises(ChainError, match="/1/pages-1.img is damaged"):
        prune(root_of(five), Rule(last=1))
    assert names(root_of(five)) == ["1", "2", "3", "4", "5"]


def test_killed_before_any_change_to_the_disk(five: List[Made], read_back: Reader) -> None:
    step, ended = 0, False
    while not ended:
        with in_memory(five) as root:
            Path(root, "3", "pinned").touch()
            ended = not killed_before(step, lambda folder=root: prune(folder, Rule(last=1)))
            left = [name for name in names(root) if not name.startswith(".")]
            assert set(left) >= {"3", "5"}
            assert {name: read_back(f"{root}/{name}", NAME) for name in left} == {name: CONTENT[name] for name in left}
            prune(root, Rule(last=1))
            assert names(root) == ["3", "5"] and os.path.exists(f"{root}/3/pinned"), step
            assert {name: read_back(f"{root}/{name}", NAME) for name in ("3", "5")} == {name: CONTENT[name] for name in ("3", "5")}
        step += 3  # each alone is the same as for squash
    assert step > 60
