# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The version of the engine, as `stillframe --version` tells it."""

from __future__ import annotations

VERSION = "0.1.0"
