# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab of the integration tests, in a folder that services of other users can enter."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

from victim import Lab, become_subreaper, children


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A directory, services and the engine; all processes are gone afterwards."""
    if os.geteuid():
        pytest.skip("dumps and restores need root")
    become_subreaper()
    folder = Path(tempfile.mkdtemp(prefix="service-"))
    folder.chmod(0o755)
    made = Lab(folder, {"": folder}, children())
    try:
        yield made
    finally:
        made.reap()
        shutil.rmtree(folder)
