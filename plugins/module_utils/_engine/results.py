# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the verbs answer. Times are microseconds, as in CRIU's stats images; sizes are bytes unless named pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

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
    files_kept: int = 0
    files_copied: int = 0
    """Bytes of them that had to be copied in the stop."""
    files_time: int = 0
    """Spent on them in the stop, part of memdump_time."""


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
class CheckpointResult:
    """What a `checkpoint` did."""

    images_root: str
    dump: DumpResult
    reason: str
    """Why the dump is full: first, unsound, restarted, too_long or untracked; else incremental."""
    why: str
    """The same as a clause."""
    swept: Tuple[str, ...]
    """Directories of dumps that an earlier run left unfinished, which were removed."""
    removed: Tuple[str, ...]
    """Directories of the dumps that no rule keeps."""
    bytes_freed: int
    """By their removal."""
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointPlan:
    """What a `checkpoint` would do: the answer in check mode. Nothing was touched."""

    images_root: str
    dump: DumpPlan
    parent: str
    """The directory of the dump that it would be made on top of, empty for a full one."""
    reason: str
    """As in CheckpointResult."""
    why: str


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
    files_restored: int = 0
    """That the dump kept, and that were put back."""


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
class Fault:
    """One thing that is wrong with a dump."""

    path: str
    """The file, or where it is not one file, the directory."""
    offset: Optional[int]
    """Where in the file, in bytes; None where that is not known."""
    why: str


@dataclass(frozen=True)
class VerifiedDump:
    """One dump that was verified."""

    path: str
    id: str
    """Empty for a dump made by CRIU, and for one that could not be read."""
    sound: bool
    checksums: bool
    """Whether it has any: a dump made by CRIU has none, so that only its form could be checked."""


@dataclass(frozen=True)
class VerifyResult:
    """What `verify` found."""

    images_dir: str
    sound: bool
    faults: Tuple[Fault, ...]
    dumps: Tuple[VerifiedDump, ...]
    """Newest first."""
    bytes_read: int
    """Of pages files."""
    wall_time: int
    """Microseconds."""


@dataclass(frozen=True)
class SquashResult:
    """What `squash` did, or would do."""

    images_dir: str
    squashed: bool
    """Whether it had a parent."""
    pages_merged: int
    """Pages that the dump now holds itself and counted on its parents for before."""
    removed: Tuple[str, ...]
    """Directories of the parents that were removed, newest first."""
    bytes_freed: int
    """Blocks given back to the filesystem, less those taken; below zero where more were taken. In check mode an estimate."""
    bytes_before: int
    """Of the dump and the parents that are removed, as allocated on disk."""
    bytes_after: int
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class RoundFigures:
    """One round of a move, while the tree ran."""

    number: int
    pages: int
    bytes: int
    """As sent, with all that goes with them."""
    time: int
    dirty_rate: int
    """Pages a second that the tree wrote to since the round before; 0 for the first one."""


@dataclass(frozen=True)
class StopFigures:
    """The parts of the time that a tree stood still while it moved, and what was sent in it."""

    freeze: int
    scan: int
    """Reading its state, and finding what it has written to."""
    copy: int
    """Taking the pages, and writing the images."""
    send: int
    apply: int
    """Completing the tree on the other host."""
    resume: int
    """The decision, until it runs there."""
    pages: int
    bytes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.freeze + self.scan + self.copy + self.send + self.apply + self.resume


@dataclass(frozen=True)
class MigrateResult:
    """What a `migrate` did: the tree runs on the other host, and no longer here."""

    session: str
    """UUID of the move."""
    pids: Tuple[int, ...]
    rounds: Tuple[RoundFigures, ...]
    enough: str
    """Why there were no more rounds: fits, not shrinking, max_rounds, or untracked."""
    stop: StopFigures
    lock_table: str
    """The table of nf_tables that drops the packets of its connections here, to be deleted when their address has moved; or empty."""
    wall_time: int
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """How a move would go, as far as a look at the tree can tell."""

    rounds: int
    bytes: int
    """That would be sent, in the rounds and in the stop."""
    downtime: int
    dirty_rate: int
    """Pages a second that the tree wrote to while it was watched."""
    rate: int
    """Bytes a second that the connection was reckoned with: measured, the limit, or assumed."""
    enough: str
    """Why the rounds would end, as in MigrateResult."""


@dataclass(frozen=True)
class MigratePlan:
    """What a `migrate` would do: the answer in check mode. Nothing stands in the way, and nothing was touched."""

    pids: Tuple[int, ...]
    asked: bool
    """Whether the destination was: else only this host was looked at."""
    predicted: Forecast
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptDump:
    """One dump that `prune` keeps."""

    path: str
    created: str
    """UTC, ISO 8601."""
    reasons: Tuple[str, ...]
    """last, hourly, daily, weekly, within, newest, pinned."""
    onto: Optional[str]
    """The directory of its parent afterwards, None for a full dump."""
    squashed: bool
    """Whether it was, or would be, made anew because its parent goes."""


@dataclass(frozen=True)
class PruneResult:
    """What `prune` did, or would do."""

    images_dir: str
    kept: Tuple[KeptDump, ...]
    """Parents before those that are on top of them."""
    removed: Tuple[str, ...]
    """Directories, each before that of its parent."""
    bytes_freed: int
    """Blocks given back to the filesystem, less those taken by dumps made anew; in check mode an estimate."""
    bytes_before: int
    """Of all the dumps, as allocated on disk."""
    bytes_after: int
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class ReceiveTreeResult:
    """What a `receive` did: the tree runs here."""

    session: str
    pid: int
    pids: Tuple[int, ...]
    rounds: int
    bytes: int
    """Of memory, that came in the rounds."""
    pages_restored: int
    """In the stop."""
    restore_time: int
    wall_time: int
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class DrillResult:
    """How a `drill` went. Nothing is left of the tree."""

    images_dir: str
    dump_id: str
    pid: int
    pids: Tuple[int, ...]
    """In a PID namespace of their own: those of the dump."""
    good: bool
    """Whether the check ended with 0, and the tree had not ended by itself."""
    rc: int
    """Exit status of the check, negative the signal that ended it, 127 when it could not be started; 0 without a check."""
    stdout: str
    stderr: str
    timed_out: bool
    alive: bool
    """Whether the root of the tree was still there when the check had ended."""
    restore_time: int
    check_time: int
    wall_time: int
    warnings: Tuple[str, ...] = ()

    def verdict(self) -> str:
        """Return in a sentence how it went."""
        if self.timed_out:
            return f"the check of {self.images_dir} did not end in time; give it a longer timeout, or see what the restored tree waits for"
        if self.rc:
            return f"the check of {self.images_dir} failed with {self.rc}; see what it says, and do not rely on this dump before"
        if not self.alive:
            return f"process {self.pid}, restored from {self.images_dir}, ended by itself; do not rely on this dump"
        return f"{self.images_dir} restores"
