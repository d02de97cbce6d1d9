# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the engine importable as `_engine`, as bin/stillframe does, and what makes reports as `_report`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "plugins" / "module_utils"))
sys.path.insert(0, str(Path(__file__).parent.parent / "plugins" / "plugin_utils"))
sys.path.insert(0, str(Path(__file__).parent / "interop"))
import table


def pytest_configure(config: pytest.Config) -> None:
    """Have the interoperability tests print their table."""
    table.register(config)
