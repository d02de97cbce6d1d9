# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `prune`: keep of the dumps in a directory those that a rule names, and remove the others.

A dump that is kept and whose parent is not is made anew first, on top of the nearest parent that is kept or as a full dump. Only
when all that is kept can do without them are the others removed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from .chains import retention
from .chains.listing import Listed, directories, listed
from .chains.lock import changing_root
from .chains.merged import merging, pages_between
from .chains.removal import remove, sweep
from .chains.replacement import paths_with_old, put_in_place, remove_old
from .images.chain import open_chain
from .images.directory import bytes_on_disk, dump_files, is_dump
from .images.pagemap import PAGE_SIZE
from .results import KeptDump, PruneResult


@dataclass(frozen=True)
class _Plan:
    """What becomes of the dumps."""

    kept: tuple[KeptDump, ...]
    removed: tuple[str, ...]


def prune(root: str, rule: retention.Rule, check: bool = False) -> PruneResult:
    """Remove the dumps in the directories of ROOT that RULE does not keep; the newest and those that are pinned always stay.

    Safe to interrupt, and to repeat. With CHECK it only tells. Raises UsageError for a rule that keeps nothing, ChainError for a
    dump that is damaged, ImagesError for what the filesystem refuses; then no dump was removed.
    """
    retention.check(rule)
    root = os.path.realpath(root)
    with changing_root(root):
        if not check:
            for path in paths_with_old(root):
                remove_old(path)
            sweep(root)
        dumps = listed(root)
        plan = _plan(dumps, rule)
        before = sum(bytes_on_disk(dump.path) for dump in dumps)
        if check:
            anew = sum(_taken(one) for one in plan.kept if one.squashed)
            after = before + anew - sum(map(bytes_on_disk, plan.removed))
        else:
            for one in plan.kept:
                if one.squashed:
                    _make_anew(one)
            remove(plan.removed)
            after = sum(bytes_on_disk(one.path) for one in plan.kept)
    return PruneResult(root, plan.kept, plan.removed, before - after, before, after, _warnings(root))


def _plan(dumps: Sequence[Listed], rule: retention.Rule) -> _Plan:
    by_path = {dump.path: dump for dump in dumps}
    good = [dump for dump in dumps if dump.restorable]
    why = retention.reasons(good, rule, datetime.now(timezone.utc))
    newest = max((dump.created for dump in good), default=None)
    parents = {dump.parent for dump in dumps}
    for dump in dumps:
        if dump.pinned:
            why[dump.path] = (*why.get(dump.path, ()), "pinned")
        if not dump.restorable and dump.path not in parents and (newest is None or dump.created >= newest):
            why.setdefault(dump.path, ("newest",))  # a pre-dump that a dump is still to be made on top of
    kept = []
    for dump in (dump for dump in dumps if dump.path in why):
        parent = dump.parent
        while parent in by_path and parent not in why:
            parent = by_path[parent].parent
        kept.append(KeptDump(dump.path, dump.created.isoformat(), why[dump.path], parent or None, parent != dump.parent))
    return _Plan(tuple(kept), tuple(dump.path for dump in reversed(dumps) if dump.path not in why))


def _make_anew(one: KeptDump) -> None:
    chain = open_chain(one.path, verify=False)
    chain.verify()
    onto = _level(one, [dump.path for dump in chain.dumps])
    put_in_place(chain, onto, merging(chain, onto))
    remove_old(one.path)


def _taken(one: KeptDump) -> int:
    """Return the bytes that ONE would take more if it were made anew. Raises ChainError."""
    chain = open_chain(one.path, verify=False)
    return pages_between(chain, _level(one, [dump.path for dump in chain.dumps])) * PAGE_SIZE


def _level(one: KeptDump, paths: Sequence[str]) -> int:
    """Return where in its chain, of PATHS, the parent is that ONE is to have."""
    real = [os.path.realpath(path) for path in paths]
    return real.index(one.onto) if one.onto else len(real)


def _warnings(root: str) -> tuple[str, ...]:
    half = [path for path in directories(root) if dump_files(path) and not is_dump(path)]
    return (f"files of unfinished dumps are left alone: {', '.join(half)}",) if half else ()
