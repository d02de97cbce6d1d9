# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The log, in CRIU's line format."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from _engine.cli.line_log import open_log
from _engine.errors import UsageError


def lines(path: Path, verbosity: int) -> list[str]:
    log = open_log(str(path), verbosity)
    log.logger.debug("debug")
    log.logger.info("info")
    log.logger.warning("warning")
    log.logger.error("error")
    os.close(log.descriptor)
    return path.read_text().splitlines()


@pytest.mark.parametrize(("verbosity", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (9, 4)])
def test_verbosity_chooses_the_records(tmp_path: Path, verbosity: int, expected: int) -> None:
    assert len(lines(tmp_path / "log", verbosity)) == expected


def test_a_line_is_as_criu_writes_it(tmp_path: Path) -> None:
    warning, error = lines(tmp_path / "log", 2)
    assert re.fullmatch(r"Warn  \(test_line_log\.py:[0-9]+\): warning", warning)
    assert re.fullmatch(r"Error \(test_line_log\.py:[0-9]+\): error", error)
    for line in lines(tmp_path / "log", 3):
        assert re.match(r"\([0-9]{2}\.[0-9]{6}\) (Error \(|Warn  \(|info)", line), line


def test_the_file_is_new_private_and_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n" * 100)
    path.unlink()
    log = open_log(str(path), 4)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.get_inheritable(log.descriptor)
    os.close(log.descriptor)
    path.write_text("old\n")
    os.close(open_log(str(path), 4).descriptor)
    assert path.read_text() == ""


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"log file {tmp_path}/no/log cannot be opened: No such file or directory"):
        open_log(str(tmp_path / "no" / "log"), 2)


def test_a_failure_is_told_once_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    to_file, to_stderr, silent = open_log(str(tmp_path / "log"), 2), open_log(None, 2), open_log(None, 0)
    for log in (to_file, to_stderr, silent):
        log.fail("dump", "it broke")
        os.close(log.descriptor)
    told = capfd.readouterr().err.splitlines()
    assert [line.endswith("it broke") for line in told] == [True] * 3
    assert told[0] == told[2] == "stillframe dump: it broke"
    assert "it broke" in (tmp_path / "log").read_text()
