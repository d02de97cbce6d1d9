# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that a restore writes the PID of the root task to."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import UsageError
from ..options import Hook

STAGE = "post-restore"
"""When it is written: the tree is there and does not run yet, so that it can still be taken back (CRIU's cr-restore.c)."""


def check_pidfile(path: str | None) -> None:
    """Raise UsageError when a file stands at PATH already."""
    if path is not None and os.path.lexists(path):
        raise UsageError(f"pidfile {os.path.abspath(path)} exists; remove it or name another one with --pidfile")


def write_pidfile(path: str, pid: str) -> None:
    """Write PID, decimal and without a newline, to the new file PATH, mode 0600. Raises UsageError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"pidfile {os.path.abspath(path)} cannot be made: {error.strerror}; name another one with --pidfile") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(pid)


def with_pidfile(hook: Hook, path: str | None) -> Hook:
    """Return HOOK, which after the scripts of STAGE writes the root task's PID to PATH."""
    if path is None:
        return hook
    pidfile = path

    def run(stage: str, environment: Mapping[str, str]) -> None:
        hook(stage, environment)
        if stage == STAGE:
            write_pidfile(pidfile, environment["CRTOOLS_INIT_PID"])

    return run
