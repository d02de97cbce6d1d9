# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs receive and migrate of the command line: both ends of a move."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Callable, Optional, TypeVar

from ..errors import UsageError
from ..migrate import migrate, settle
from ..migrate_plan import plan
from ..options import Hook, MigrateOptions, ReceiveTreeOptions
from ..progress import Progress
from ..receive import receive
from ..results import MigratePlan, MigrateResult, ReceiveTreeResult
from ..transfer.ends import acceptor, connector
from ..transfer.visitors import listen
from .line_log import LineLog
from .settings import Settings, tls_options
from .status_fd import check_status_fd, report_ready

_Options = TypeVar("_Options", MigrateOptions, ReceiveTreeOptions)


def receive_tree(settings: Settings, hook: Hook, log: LineLog, say: Callable[[str], None]) -> Optional[ReceiveTreeResult]:
    """Listen, say so, and take one tree; returns None when a source only asked about an earlier one."""
    check_status_fd(settings.status_fd)
    with listen(settings.address, settings.port) as listener:
        where = "Listening on {} port {}".format(*listener.getsockname()[:2])
        log.logger.info("%s", where)
        if not settings.port:
            say(where)
        report_ready(settings.status_fd)
        options = _options(ReceiveTreeOptions, settings, hook, log.progress())
        return receive(options, acceptor(listener, tls_options(settings), log.logger), log.logger)


def migrate_tree(settings: Settings, hook: Hook, log: LineLog, say: Callable[[str], None]) -> None:
    """Move the tree, only tell how that would go, or settle a session that was left in doubt."""
    if not settings.port and not settings.dry_run:
        raise UsageError("migrate needs the port that the receiver listens on; name it with --port")
    connect = connector(settings.address, settings.port, tls_options(settings))
    if settings.settle:
        runs = settle(settings.settle, connect, ReceiveTreeOptions.link_timeout)
        say("The tree runs there, and is ended here." if runs else "The tree goes on here.")
        return
    if not settings.tree:
        raise UsageError("no process is named; name the root of the tree with --tree PID")
    if settings.dry_run:
        found = plan(_options(MigrateOptions, settings, hook, log.progress()), connect if settings.port else None, log.logger)
        for warning in found.warnings:
            log.logger.warning("%s", warning)
        say(outlook(found))
        return
    result = migrate(_options(MigrateOptions, settings, hook, log.progress()), connect, log.logger)
    for warning in result.warnings:
        log.logger.warning("%s", warning)
    if settings.display_stats:
        say(figures(result))


def _options(kind: type[_Options], settings: Settings, hook: Hook, progress: Progress) -> _Options:
    names = {one.name for one in fields(kind)} & {one.name for one in fields(Settings)}
    values: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return kind(**values, hook=hook, progress=progress)


def outlook(found: MigratePlan) -> str:
    """Return how a move would go, for a person."""
    how, asked = found.predicted, "asked" if found.asked else "not asked"
    return (
        f"Nothing stands in the way (the destination was {asked}). Expected: {how.rounds} rounds ({how.enough}), {how.bytes} bytes, "
        f"a stop of {how.downtime} us, with {how.dirty_rate} pages changed a second and {how.rate} bytes sent a second"
    )


def figures(result: MigrateResult) -> str:
    """Return the figures of a move, for a person."""
    lines = [f"Round {one.number}: {one.pages} pages, {one.bytes} bytes, {one.time} us" for one in result.rounds]
    stop = result.stop
    parts = ", ".join(f"{name} {getattr(stop, name)}" for name in ("freeze", "scan", "copy", "send", "apply", "resume"))
    return "\n".join([*lines, f"Stop: {stop.pages} pages, {stop.bytes} bytes, {stop.total} us ({parts})"])
