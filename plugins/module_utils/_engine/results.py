# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the verbs answer. Times are microseconds, as in CRIU's stats images; sizes are bytes unless named pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple

from .errors import Obstacle


@dataclass(frozen=True)
class DumpResult:
    """What a `dump` or a `pre_dump` did."""

    images_dir: str
    dump_id: str
    parent_id: str
    """Empty for a full dump."""
    pids: Tuple[int, ...]
    tracker: str
    """The tracker that told the changed pages: uffd_wp, soft_dirty, compare; none for a full dump."""
    tracking: str
    """The tracker that was left armed for the next dump, or none."""
    freeze: str
    """How the content was held still: snapshot, hold; none for a pre_dump."""
    pages_scanned: int
    pages_skipped_parent: int
    pages_written: int
    shpages_scanned: int
    shpages_skipped_parent: int
    shpages_written: int
    bytes_written: int
    """Bytes of all image files as allocated on disk (st_blocks)."""
    bytes_deduplicated: int
    """Bytes freed in the parents by auto_dedup."""
    freezing_time: int
    frozen_time: int
    memdump_time: int
    memwrite_time: int
    wall_time: int
    left: str
    """running, stopped or killed."""
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class DumpPlan:
    """What a `dump` would do: the answer in check mode. Nothing was touched."""

    pids: Tuple[int, ...]
    dumpable: bool
    obstacles: Tuple[Obstacle, ...]
    incremental: bool
    tracker: str
    memory: int
    """Resident bytes of the tree, an upper bound of what would be written."""
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoreResult:
    """What a `restore` did."""

    images_dir: str
    dump_id: str
    pid: int
    pids: Tuple[int, ...]
    pages_compared: int
    pages_skipped_cow: int
    pages_restored: int
    bytes_deduplicated: int
    """Bytes freed in the images by auto_dedup."""
    forking_time: int
    restore_time: int
    wall_time: int
    left: str
    """running or stopped."""
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class RestorePlan:
    """What a `restore` would do, or why it can't: the answer in check mode."""

    dump_id: str
    pid: int
    pids: Tuple[int, ...]
    restorable: bool
    obstacles: Tuple[Obstacle, ...]


@dataclass(frozen=True)
class ReceiveResult:
    """What a `page_server` received."""

    images_dir: str
    dump_id: str
    parent_id: str
    pages_received: int
    bytes_deduplicated: int
    """Bytes freed in the parents by auto_dedup."""
    wall_time: int
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class DedupResult:
    """What `dedup` did, or would do."""

    images_dir: str
    pages_punched: int
    bytes_freed: int
    """Blocks given back to the filesystem (st_blocks × 512), not sizes."""
    bytes_before: int
    bytes_after: int
    punched: Tuple[str, ...]
    """The parents that lost pages: they cannot be restored by themselves any more."""
    warnings: Tuple[str, ...] = ()
