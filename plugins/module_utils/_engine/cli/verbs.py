# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs as the command line knows them: each takes a Session and returns its exit status."""

from __future__ import annotations

import os
import signal
import sys
from typing import Callable, NoReturn, Optional
from collections.abc import Mapping

from ..action_script import ActionScriptError
from ..errors import UsageError
from ..options import DrillOptions, DumpOptions, Hook, PageServerOptions, RestoreOptions
from .advancing import find_tree, take_next
from .pidfile import check_pidfile, with_pidfile
from .session import Session, say, warn
from .settings import Settings, tls_options
from .stats import dump_stats, restore_stats
from .status_fd import check_status_fd, report_ready

_POST_DUMP_FAILED = 255
"""CRIU's exit status when a post-dump script fails: the low byte of -1 (cr_dump_finish in cr-dump.c)."""


def dump(session: Session) -> int:
    """Write the tree into images."""
    from ..dump import dump as dump_tree

    options = _dump_options(session)
    try:
        result = dump_tree(options, session.log.logger)
    except ActionScriptError as error:
        if error.stage != "post-dump":
            raise
        session.log.fail("dump", error)
        return _POST_DUMP_FAILED
    warn(session, result.warnings)
    if session.settings.display_stats:
        say(dump_stats(result))
    _finish(session, options.hook, "Dumping finished successfully")
    return 0


def pre_dump(session: Session) -> int:
    """Write the tree's memory into images, while it runs."""
    from ..pre_dump import pre_dump as pre_dump_tree

    options = _dump_options(session)
    result = pre_dump_tree(options, session.log.logger)
    warn(session, result.warnings)
    if session.settings.display_stats:
        say(dump_stats(result))
    _finish(session, options.hook, "Pre-dumping finished successfully")
    return 0


def _dump_options(session: Session) -> DumpOptions:
    settings = session.settings
    check_status_fd(settings.status_fd)
    return DumpOptions(
        tree=find_tree(settings),
        images_dir=session.images_dir,
        work_dir=session.work_dir,
        prev_images_dir=settings.prev_images_dir,
        leave_running=settings.leave_running,
        leave_stopped=settings.leave_stopped,
        track_mem=settings.track_mem,
        tracker=settings.tracker,
        freeze=settings.freeze,
        auto_dedup=settings.auto_dedup,
        shell_job=settings.shell_job,
        file_locks=settings.file_locks,
        ext_unix_sk=settings.ext_unix_sk,
        external=settings.external,
        manage_cgroups=settings.manage_cgroups,
        cgroup_root=settings.cgroup_root,
        cgroup_yard=settings.cgroup_yard and os.path.abspath(settings.cgroup_yard),
        cgroup_dump_controller=settings.cgroup_dump_controller,
        tcp_established=settings.tcp_established,
        tcp_close=settings.tcp_close,
        skip_in_flight=settings.skip_in_flight,
        ghost_limit=settings.ghost_limit,
        link_remap=settings.link_remap,
        irmap_scan_path=settings.irmap_scan_path,
        files=settings.files,
        timeout=settings.timeout,
        force=settings.force,
        page_server=_page_server_options(settings),
        progress=session.log.progress(),
        hook=session.hook(),
    )


def _page_server_options(settings: Settings) -> Optional[PageServerOptions]:
    if not settings.page_server and settings.ps_socket < 0:
        return None
    if settings.ps_socket < 0 and not settings.port:
        raise UsageError("--page-server needs a port; name it with --port")
    tls = tls_options(settings) if settings.ps_socket < 0 else None  # as in CRIU: who gives a socket has seen to that
    return PageServerOptions(settings.address, settings.port, settings.ps_socket, tls)


def checkpoint(session: Session) -> int:
    """Take the next dump of a service."""
    hook = session.hook()
    warn(session, take_next(session.settings, _dump_options(session), session.log.logger))
    _finish(session, hook, "Dumping finished successfully")
    return 0


def restore(session: Session) -> int:
    """Make the tree anew from its images; unless detached, wait until all of it has ended."""
    from ..restore import restore as restore_tree

    settings = session.settings
    command = _command(settings)
    if settings.restore_sibling and not settings.restore_detached:
        raise UsageError("--restore-sibling makes no sense without --restore-detached; give both")
    check_status_fd(settings.status_fd)
    check_pidfile(settings.pidfile)
    if settings.tree:
        session.log.logger.warning("--tree has no effect on a restore: the images tell the PIDs")
    hook = with_pidfile(session.hook(), settings.pidfile)
    options = RestoreOptions(
        images_dir=session.images_dir,
        work_dir=session.work_dir,
        leave_stopped=settings.leave_stopped,
        shell_job=settings.shell_job,
        file_locks=settings.file_locks,
        ext_unix_sk=settings.ext_unix_sk,
        inherit_fd=settings.inherit_fd,
        manage_cgroups=settings.manage_cgroups,
        cgroup_root=settings.cgroup_root,
        cgroup_yard=settings.cgroup_yard and os.path.abspath(settings.cgroup_yard),
        tcp_established=settings.tcp_established,
        tcp_close=settings.tcp_close,
        auto_dedup=settings.auto_dedup,
        track_mem=settings.track_mem,
        restore_sibling=settings.restore_sibling,
        file_validation=settings.file_validation,
        restore_files=settings.restore_files,
        progress=session.log.progress(),
        hook=hook,
    )
    result = restore_tree(options, session.log.logger)
    warn(session, result.warnings)
    if settings.display_stats:
        say(restore_stats(result))
    _finish(session, hook, "Restore finished successfully. Tasks resumed.")
    if command:
        _become(command)
    if not settings.restore_detached:
        _wait_for_children()
    return 0


def _command(settings: Settings) -> tuple[str, ...]:
    """Return the command that --exec-cmd asks for. Raises UsageError for one that is not possible."""
    command = settings.operands[1:]
    if not settings.exec_cmd:
        return ()
    if not command:
        raise UsageError("--exec-cmd needs a command; put it behind --, at the end")
    if settings.restore_detached:
        raise UsageError("--exec-cmd and --restore-detached exclude each other; leave one out")
    return command


def _become(command: tuple[str, ...]) -> NoReturn:
    """Execute COMMAND in our place: it is the parent of the restored root task then."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise UsageError(f"command {command[0]} cannot be executed: {error.strerror}; the restored tree runs on") from error


def _wait_for_children() -> None:
    """Wait until no child is left. As in CRIU, how they end is not told on, and a signal ends us alone, not the tree."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(signum, signal.SIG_DFL) for signum in signals]
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return
    finally:
        for signum, handler in zip(signals, previous):
            signal.signal(signum, handler)


def page_server(session: Session) -> int:
    """Receive the pages of a dump."""
    from .page_server import serve

    return serve(session.settings, session.images_dir, session.log)


def receive(session: Session) -> int:
    """Take a tree that moves here; unless detached, wait until all of it has ended."""
    from .moving import receive_tree

    settings = session.settings
    hook = with_pidfile(session.hook(), settings.pidfile)
    check_pidfile(settings.pidfile)
    result = receive_tree(settings, hook, session.log, say)
    if result is None:
        return 0
    warn(session, result.warnings)
    session.log.logger.info("Restore finished successfully. Tasks resumed.")
    if not settings.restore_detached:
        _wait_for_children()
    return 0


def migrate(session: Session) -> int:
    """Move a tree to another host."""
    from .moving import migrate_tree

    check_status_fd(session.settings.status_fd)
    hook = session.hook()
    migrate_tree(session.settings, hook, session.log, say)
    _finish(session, hook, "Migration finished successfully")
    return 0


def drill(session: Session) -> int:
    """Restore the tree where nobody notices, run the command behind -- as a check, and end it."""
    from ..drill import drill as drill_images

    settings = session.settings
    options = DrillOptions(session.images_dir, settings.operands[1:], settings.timeout, settings.file_validation)
    result = drill_images(options, session.log.logger)
    warn(session, result.warnings)
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    if not result.good:
        session.log.fail("drill", result.verdict())
        return 1
    session.log.logger.info("Drill finished successfully: processes %s were restored", ", ".join(map(str, result.pids)))
    return 0


def check(session: Session) -> int:
    """Tell whether this machine has what the engine needs, or the features named."""
    from ..check import check as check_features

    settings = session.settings
    features = check_features(settings.feature)
    if settings.feature:
        for feature in features:
            if feature.ok:
                say(f"{feature.name} is supported")
            else:
                session.log.fail("check", f"{feature.name} is not supported: {feature.detail}")
        return 0 if all(feature.ok for feature in features) else 1
    wanted = {"required"} | ({"extra"} if settings.extra else set()) | ({"experimental"} if settings.experimental else set())
    lacking = [feature for feature in features if not feature.ok and feature.category in wanted]
    for feature in lacking:
        session.log.fail("check", f"{feature.name} is missing: {feature.detail}")
    if any(feature.category == "required" for feature in lacking):
        say("Does not look good.")
    elif lacking:
        say("Looks good, but some trees may need what is missing.")
    else:
        say("Looks good.")
    return 1 if lacking else 0


def _finish(session: Session, hook: Hook, message: str) -> None:
    """Log MESSAGE, and tell those who wait for us."""
    session.log.logger.info("%s", message)
    if session.settings.status_fd is not None:
        hook("status-ready", {})
        report_ready(session.settings.status_fd)


VERBS: Mapping[str, Callable[[Session], int]] = {
    "dump": dump,
    "pre-dump": pre_dump,
    "checkpoint": checkpoint,
    "restore": restore,
    "drill": drill,
    "page-server": page_server,
    "migrate": migrate,
    "receive": receive,
    "check": check,
}
