# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a verb is: what is counted, when that is told, and how it reads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from _engine.cli import line_log
from _engine.progress import Progress, Reading

MIB = 1 << 20


@pytest.mark.parametrize(
    "reading, text",
    [
        (Reading("", 512 * MIB, 1130 * MIB, 1.0), "45 %, 512 of 1,130 MiB, 512 MiB/s, 1 s left"),
        (Reading("round 2", 2 * MIB, 4 * MIB, 0.5), "round 2: 50 %, 2,048 of 4,096 KiB, 4,096 KiB/s, 0 s left"),
        (Reading("round 1", 300 * MIB, 0, 2.0), "round 1: 300 MiB, 150 MiB/s"),
        (Reading("", MIB, 10_000 * MIB, 1.0), "0 %, 1 of 10,000 MiB, 1 MiB/s, 2 h 47 min left"),
        (Reading("", 0, 10 * MIB, 0.0), "0 %, 0 of 10 MiB, 0 MiB/s"),
    ],
)
def test_a_reading_is_read_by_a_person(reading: Reading, text: str) -> None:
    assert str(reading) == text


def test_nothing_is_told_that_belongs_to_no_stage() -> None:
    told: list[Reading] = []
    progress = Progress(told.append, every=0)
    progress.add(1)
    progress.name("round 1")
    progress.add(1)
    assert told == []
    progress.begin(10)
    progress.add(4)
    progress.add(60)
    progress.name("round 2")
    progress.add(1)
    assert [(one.stage, one.done, one.total) for one in told] == [("round 1", 4, 10), ("round 1", 10, 10)]


def test_it_is_told_at_intervals_only() -> None:
    told: list[Reading] = []
    progress = Progress(told.append, every=3600)
    progress.begin(100)
    for _time in range(100):
        progress.add(1)
    assert [one.done for one in told] == [1]
    late = Progress(told.append, after=3600)
    late.begin(100)
    late.add(50)
    assert len(told) == 1


def test_threads_lose_nothing() -> None:
    told: list[Reading] = []
    progress = Progress(told.append, every=0)
    progress.begin(80_000)
    with ThreadPoolExecutor(4) as pool:
        for _number in range(80):
            pool.submit(lambda: [progress.add(1) for _time in range(1000)])
    assert max(one.done for one in told) == 80_000


@pytest.mark.parametrize("verbosity, shown", [(1, False), (2, True), (4, True)])
def test_a_log_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verbosity: int, shown: bool) -> None:
    monkeypatch.setattr(line_log, "_PROGRESS_EVERY", 0)
    log = line_log.open_log(str(tmp_path / "log"), verbosity)
    progress = log.progress()
    progress.begin(16 * MIB)
    progress.add(4 * MIB)
    log.close()
    assert ("25 %, 4 of 16 MiB, " in (tmp_path / "log").read_text()) == shown
    assert "Warn" not in (tmp_path / "log").read_text()


def test_standard_error_has_it_only_where_that_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_log, "_PROGRESS_EVERY", 0)
    pipe, terminal = os.pipe(), os.openpty()
    for reader, writer in (pipe, terminal):
        log = line_log.LineLog(writer, 2, to_stderr=True)
        progress = log.progress()
        progress.begin(16 * MIB)
        progress.add(4 * MIB)
        log.logger.error("the end")
        assert (b"25 %" in os.read(reader, 1000)) == ((reader, writer) == terminal)
    for descriptor in (*pipe, *terminal):
        os.close(descriptor)
