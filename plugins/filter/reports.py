# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that make reports."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.stillframe.checkpoint.plugins.plugin_utils._report.fleet import fleet_facts, fleet_page
from ansible_collections.stillframe.checkpoint.plugins.plugin_utils._report.metrics import fleet_metrics
from ansible_collections.stillframe.checkpoint.plugins.plugin_utils._report.migration import migration_facts, migration_page


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {
            "fleet_facts": fleet_facts,
            "fleet_metrics": fleet_metrics,
            "fleet_page": fleet_page,
            "migration_facts": migration_facts,
            "migration_page": migration_page,
        }
