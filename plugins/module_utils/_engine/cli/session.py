# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a verb of the command line works with, and how it tells what it did."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..options import Hook
    from .line_log import LineLog
    from .settings import Settings


@dataclass(frozen=True)
class Session:
    """All that a verb works with. The current directory is the work dir."""

    settings: Settings
    images_dir: str
    work_dir: str
    log: LineLog

    def hook(self) -> Hook:
        """Return what runs the action scripts."""
        from ..action_script import ActionScripts
        from ..options import no_hook

        if not self.settings.action_script:
            return no_hook
        return ActionScripts(self.settings.action_script, self.images_dir, self.log.logger, self.log.descriptor)


def say(text: str) -> None:
    """Say TEXT on standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def warn(session: Session, warnings: Sequence[str]) -> None:
    """Log WARNINGS."""
    for warning in warnings:
        session.log.logger.warning("%s", warning)
