# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `checkpoint` on the command line, and how a service is named there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..options import CheckpointOptions, DumpOptions
from .session import say
from .settings import Settings

if TYPE_CHECKING:
    from ..chains.retention import Rule


def find_tree(settings: Settings) -> int:
    """Return the PID that SETTINGS name the root of the tree by. Raises UsageError, TargetError."""
    others = {name: getattr(settings, name) for name in ("pid_file", "name", "systemd_unit", "cgroup") if getattr(settings, name)}
    if settings.tree and not others:
        return settings.tree
    if not settings.tree and not others:
        raise UsageError("no process is named; name the root of the tree with --tree PID")
    from ..find import find

    return find(pid=settings.tree or None, **others)


def rule_of(settings: Settings) -> Rule:
    """Return what SETTINGS say about the dumps to keep."""
    from ..chains.retention import Rule

    return Rule(settings.keep_last, settings.keep_hourly, settings.keep_daily, settings.keep_weekly, settings.keep_within)


def take_next(settings: Settings, dumped: DumpOptions, log: logging.Logger) -> Sequence[str]:
    """Take the next dump as SETTINGS and DUMPED have it, say what was done, and return the warnings. Raises EngineError."""
    from ..chains.retention import Rule
    from ..checkpoint import checkpoint, plan_checkpoint

    keep = rule_of(settings)
    dumped = replace(dumped, work_dir=settings.work_dir and dumped.work_dir)
    options = CheckpointOptions(dumped, settings.full_every, None if keep == Rule() else keep)
    if settings.dry_run:
        plan = plan_checkpoint(options, log)
        for obstacle in plan.dump.obstacles:
            say(str(obstacle))
        say(f"would make {_described(plan.parent, plan.why)}")
        return plan.dump.warnings
    result = checkpoint(options, log)
    for path in result.swept:
        say(f"removed {path}, which was left unfinished")
    say(f"{result.dump.images_dir}: {_described(result.dump.parent_id, result.why)}")
    for path in result.removed:
        say(f"removed {path}")
    return result.warnings


def _described(parent: str, why: str) -> str:
    return f"{'an incremental' if parent else 'a full'} dump, since {why}"
