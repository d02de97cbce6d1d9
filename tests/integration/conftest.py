# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab: victims are compiled once, and none outlives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from victim import Lab, become_subreaper, children


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The compiled victims by name; their directory under ""."""
    return {"": tmp_path_factory.mktemp("programs")}


@pytest.fixture
def lab(tmp_path: Path, compiled: dict[str, Path]) -> Iterator[Lab]:
    """A directory, victims and the engine; all processes are gone afterwards."""
    become_subreaper()
    made = Lab(tmp_path, compiled, children())
    try:
        yield made
    finally:
        made.reap()
