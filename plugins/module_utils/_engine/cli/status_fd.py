# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The descriptor on which a caller waits to learn that we are done."""

from __future__ import annotations

import os

from ..errors import UsageError


def check_status_fd(descriptor: int | None) -> None:
    """Raise UsageError when DESCRIPTOR is not open."""
    if descriptor is None:
        return
    try:
        os.fstat(descriptor)
    except (OSError, OverflowError) as error:
        raise UsageError(f"descriptor {descriptor}, given with --status-fd, is not open; open it in the calling program") from error


def report_ready(descriptor: int | None) -> None:
    r"""Write one \0 to DESCRIPTOR and close it, as CRIU's status_ready does. Raises UsageError."""
    if descriptor is None:
        return
    try:
        os.write(descriptor, b"\0")
        os.close(descriptor)
    except OSError as error:
        raise UsageError(f"descriptor {descriptor}, of --status-fd, cannot be written: {error.strerror}; open it to write") from error
