# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration files, named by --config or $CRIU_CONFIG_FILE."""

from __future__ import annotations

from pathlib import Path

import pytest
from _engine.cli.settings import read_settings
from _engine.errors import UsageError

CONFIG = """
# what we always want
leave-running
ghost-limit 2M   # a comment

log-file "dump log"
tree 5
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "a.conf"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize("form", ["two words", "one word", "environment"])
def test_its_options_count_as_given_before_those_of_the_command_line(config: str, form: str) -> None:
    arguments = {"two words": ["--config", config], "one word": [f"--config={config}"], "environment": []}[form]
    environment = {"CRIU_CONFIG_FILE": config} if form == "environment" else {}
    given = read_settings(["dump", *arguments, "-t", "6"], environment)
    assert (given.operands, given.leave_running, given.ghost_limit, given.log_file, given.tree) == (("dump",), True, 2 << 20, "dump log", 6)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match="configuration file /nowhere/a.conf cannot be read: No such file"):
        read_settings(["dump", "--config", "/nowhere/a.conf"], {})


@pytest.mark.parametrize(("line", "message"), [("log-file a b", "more than an option and its value"), ('log-file "a', "cannot be read")])
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.conf").write_text(line)
    with pytest.raises(UsageError, match=message):
        read_settings(["dump", "--config", str(tmp_path / "a.conf")], {})
