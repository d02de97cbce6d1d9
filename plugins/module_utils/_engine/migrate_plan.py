# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a `migrate` would do: whether anything stands in the way, and how long the tree would stand still."""

from __future__ import annotations

import logging
import uuid
from contextlib import ExitStack
from typing import Optional

from .errors import Obstacle, TargetError
from .options import Connect, MigrateOptions
from .results import MigratePlan
from .target import check_target
from .tracking.trackers import NONE, armable
from .tracking.watch import measure
from .transfer import preflight
from .transfer.forecast import forecast
from .transfer.greeting import greet
from .transfer.wire import Link


def plan(options: MigrateOptions, connect: Optional[Connect], log: logging.Logger) -> MigratePlan:
    """Tell how the tree under options.tree would move to the receiver that CONNECT leads to; None to ask none. Touches nothing.

    The receiver goes on waiting. If nobody listens there, the plan says so. Raises UnsupportedError with all that stands in the way.
    """
    pids = check_target(options.tree)
    tracked = armable(options.tracker) != NONE
    rate, asked, said, unreachable = options.bandwidth_limit, False, [], []
    with ExitStack() as stack:
        link = None
        try:
            if connect is not None:
                link = stack.enter_context(Link(connect(options.link_timeout), options.link_timeout, options.bandwidth_limit))
        except ConnectionRefusedError as error:
            said.append(f"the destination was not asked, since no receiver listens there ({error})")
        except OSError as error:
            unreachable.append(Obstacle(0, "destination", f"it cannot be reached ({error})", "check address, port and certificates"))
        if link is not None:
            greet(link, str(uuid.uuid4()), options.compress, checking=True)
        found = preflight.look(options, pids, link, log, unreachable)
        if link is not None:
            rate, asked = preflight.measure(link), True
    try:
        predicted = forecast(measure(pids), rate, options.max_downtime, options.max_rounds, tracked, found.bytes)
    except PermissionError as error:
        raise TargetError(f"the memory of the tree cannot be read ({error.strerror}); run as root, or with CAP_SYS_PTRACE") from error
    return MigratePlan(pids, asked, predicted, (*said, *found.here, *found.there))
