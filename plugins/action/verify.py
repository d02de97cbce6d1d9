# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.stillframe.checkpoint.plugins.plugin_utils._progress import ProgressAction


class ActionModule(ProgressAction):
    """Runs the module verify, and tells how far it is."""
