# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Seccomp filters go through the images as CRIU has them: each names the one installed after it, common ones once."""

from __future__ import annotations

from typing import Any, List

import pytest

from _engine.images.schema import message
from _engine.resources.seccomp import DISABLED, FILTER, STRICT, Filter, FilterTable, Seccomp, check, wanted

A, B, C = (Filter(bytes([number]) * 8, number == 2) for number in (1, 2, 3))


def cores(count: int) -> List[Any]:
    return [message("core_entry")(mtype=1) for _number in range(count)]


@pytest.mark.parametrize(
    "threads",
    [
        [Seccomp(DISABLED)],
        [Seccomp(STRICT), Seccomp(DISABLED)],
        [Seccomp(FILTER, (A, B))],
        [Seccomp(FILTER, (A, B))] * 3,
        [Seccomp(FILTER, (A, B)), Seccomp(FILTER, (A, B, C)), Seccomp(DISABLED)],
        [Seccomp(DISABLED), Seccomp(FILTER, (C, C))],
    ],
)
def test_what_is_written_is_read(threads: List[Seccomp]) -> None:
    table, made = FilterTable(), cores(len(threads))
    table.fill(made, threads)
    assert wanted(made, table._entries) == threads


def test_a_child_names_the_filters_of_its_parent() -> None:
    table, parent, child = FilterTable(), cores(1), cores(1)
    table.fill(parent, [Seccomp(FILTER, (A, B))])
    table.fill(child, [Seccomp(FILTER, (C, A, B))])
    assert len(table._entries) == 3 and wanted(child, table._entries) == [Seccomp(FILTER, (C, A, B))]


def test_an_old_image_has_one_filter_for_all_threads() -> None:
    leader, other = cores(2)
    leader.tc.old_seccomp_mode, leader.tc.old_seccomp_filter = FILTER, 0
    table = [message("seccomp_filter")(filter=A.program)]
    assert wanted([leader, other], table) == [Seccomp(FILTER, (A,))] * 2


@pytest.mark.parametrize("entries", [[], [message("seccomp_filter")(filter=A.program, prev=0)]])
def test_filters_that_are_not_there_are_an_obstacle(entries: List[Any]) -> None:
    (core,) = cores(1)
    core.thread_core.seccomp_mode, core.thread_core.seccomp_filter = FILTER, 0
    assert [obstacle.where for obstacle in check(7, [core], entries)] == ["seccomp"]
