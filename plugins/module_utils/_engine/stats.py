# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The statistics images, stats-dump and stats-restore (images/stats.proto): times in microseconds, counts of pages."""

from __future__ import annotations

from .images.image import ImagesDir
from .images.schema import message
from .results import DumpResult, RestoreResult


def write_dump_stats(work_dir: str, result: DumpResult) -> None:
    """Write stats-dump into WORK_DIR. Raises ImagesError."""
    entry = message("dump_stats_entry")(
        freezing_time=result.freezing_time,
        frozen_time=result.frozen_time,
        memdump_time=result.memdump_time,
        memwrite_time=result.memwrite_time,
        pages_scanned=result.pages_scanned,
        pages_skipped_parent=result.pages_skipped_parent,
        pages_written=result.pages_written,
        pages_lazy=0,
        irmap_resolve=0,
        page_pipes=0,
        page_pipe_bufs=0,
        shpages_scanned=result.shpages_scanned,
        shpages_skipped_parent=result.shpages_skipped_parent,
        shpages_written=result.shpages_written,
    )
    ImagesDir(work_dir).write("stats-dump", [message("stats_entry")(dump=entry)])


def write_restore_stats(work_dir: str, result: RestoreResult) -> None:
    """Write stats-restore into WORK_DIR. Raises ImagesError."""
    entry = message("restore_stats_entry")(
        pages_compared=result.pages_compared,
        pages_skipped_cow=result.pages_skipped_cow,
        forking_time=result.forking_time,
        restore_time=result.restore_time,
        pages_restored=result.pages_restored,
    )
    ImagesDir(work_dir).write("stats-restore", [message("stats_entry")(restore=entry)])
