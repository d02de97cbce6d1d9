# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Action scripts: what they are told, in which order they run, and what comes of one that fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _engine.action_script import TOLERANT_STAGES, ActionScriptError, ActionScripts

LOG = logging.Logger("test")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "output", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield descriptor
    os.close(descriptor)


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_script_is_told_what_criu_tells(tmp_path: Path, output: int) -> None:
    path = script(tmp_path / "a", 'echo "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_IMAGE_DIR $CRTOOLS_INIT_PID"; cat; set -- /proc/$$/fd/*; echo $#')
    ActionScripts((path,), "/images", LOG, output)("post-dump", {"CRTOOLS_INIT_PID": "77"})
    told, descriptors = (tmp_path / "output").read_text().splitlines()
    assert told == "post-dump /images 77"
    assert int(descriptors) <= 5  # the standard streams, the script itself, and the directory that it looks at


def test_all_scripts_run_the_last_one_first(tmp_path: Path, output: int) -> None:
    paths = [script(tmp_path / name, f"echo {name}") for name in ("first", "second")]
    ActionScripts(paths, "/images", LOG, output)("pre-dump", {})
    assert (tmp_path / "output").read_text().split() == ["second", "first"]


def test_a_script_that_fails_stops_the_verb_after_all_have_run(tmp_path: Path, output: int) -> None:
    paths = [script(tmp_path / "fine", "echo fine"), script(tmp_path / "bad", "exit 3"), script(tmp_path / "shot", "kill -9 $$")]
    with pytest.raises(ActionScriptError, match="stage post-dump: .*/shot was killed by signal 9; .*/bad ended with status 3") as caught:
        ActionScripts(paths, "/images", LOG, output)("post-dump", {})
    assert caught.value.stage == "post-dump"
    assert (tmp_path / "output").read_text() == "fine\n"


def test_a_script_that_is_not_there_is_named(output: int) -> None:
    with pytest.raises(ActionScriptError, match="/nowhere/script cannot be run: No such file or directory"):
        ActionScripts(("/nowhere/script",), "/images", LOG, output)("pre-restore", {})


@pytest.mark.parametrize("stage", sorted(TOLERANT_STAGES))
def test_past_the_point_of_return_a_failure_is_only_logged(
    tmp_path: Path, output: int, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("test_action_script")
    ActionScripts((script(tmp_path / "bad", "exit 3"),), "/images", log, output)(stage, {})
    assert "ended with status 3" in caplog.text
