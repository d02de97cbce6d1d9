# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What may be named as external, and given in place of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from _engine.errors import UsageError
from _engine.images.image import ImagesDir
from _engine.images.schema import message
from _engine.resources.files.external import External, Inherited


@pytest.mark.parametrize("given", ["net[1]:x", "pid[1]:x", "mnt[/]:x", "dev[8/1]:x", "tty[1]", "tty[zz:1]", "file[zz]", "unix[]", "file"])
def test_what_is_not_known_is_refused_by_name(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        External([given])
    assert repr(given) in str(caught.value)


@pytest.mark.parametrize("given", ["3:pipe:[1]", "fd[x]:pipe:[1]", "fd[3]", "fd[3]:"])
def test_a_descriptor_without_number_or_name_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is not of the form"):
        Inherited([given])


def test_both_ends_name_a_connection() -> None:
    external = External(["unix[12]"])
    assert external.has_socket(12, 13) and external.has_socket(13, 12) and not external.has_socket(1, 2)


def test_a_file_is_given_by_its_path_with_or_without_the_slash(tmp_path: Path) -> None:
    for name in ("/var/log/file", "var/log/file"):
        inherited, entry = Inherited([f"fd[0]:{name}"]), message("reg_file_entry")(name="/var/log/file")
        entries = {"REG": {1: entry, 2: message("reg_file_entry")(name="/var/log/other")}}
        inherited.take(entries, ImagesDir(str(tmp_path)))
        assert list(entries["REG"]) == [2] and inherited.check(entries) == []
