# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What --display-stats prints, in the lines that readers of CRIU's output know."""

from __future__ import annotations


from ..results import DumpResult, RestoreResult

Row = tuple[str, int]


def dump_stats(result: DumpResult) -> str:
    """Return the statistics of a dump or a pre-dump: times in microseconds, then pages."""
    times: tuple[Row, ...] = (
        ("Freezing time", result.freezing_time),
        ("Frozen time", result.frozen_time),
        ("Memory dump time", result.memdump_time),
        ("Memory write time", result.memwrite_time),
    )
    pages: tuple[Row, ...] = (
        ("Memory pages scanned", result.pages_scanned),
        ("Memory pages skipped from parent", result.pages_skipped_parent),
        ("Memory pages written", result.pages_written),
        ("Lazy memory pages", 0),
    )
    return "\n".join(("Displaying dump stats:", *map(_time, times), *map(_pages, pages)))


def restore_stats(result: RestoreResult) -> str:
    """Return the statistics of a restore: pages, then times in microseconds."""
    pages: tuple[Row, ...] = (
        ("Pages compared", result.pages_compared),
        ("Pages skipped COW", result.pages_skipped_cow),
        ("Pages restored", result.pages_restored),
    )
    times: tuple[Row, ...] = (("Restore time", result.restore_time), ("Forking time", result.forking_time))
    return "\n".join(("Displaying restore stats:", *map(_pages, pages), *map(_time, times)))


def _time(row: Row) -> str:
    return f"{row[0]}: {row[1]} us"


def _pages(row: Row) -> str:
    return f"{row[0]}: {row[1]} (0x{row[1]:x})"
