# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How many descriptors our own process may have: we hold a copy of each of the tree's."""

from __future__ import annotations

import resource

from ...errors import KernelError

SPARE = 64
"""What the rest of the engine needs."""


def allow_descriptors(count: int) -> None:
    """Raise our soft limit so that descriptors up to number COUNT can be open. KernelError when the hard limit forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE
    if wanted <= soft or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise KernelError(f"{wanted} descriptors are needed and the limit of this process is {hard}; raise it (ulimit -Hn {wanted})")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
