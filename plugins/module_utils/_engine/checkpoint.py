# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `checkpoint`: take the next dump of a service that runs on, in the directory that holds its dumps.

Whether that dump counts on the one before is decided here. What an earlier run left that was killed is cleared away first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Iterator, Mapping, Optional, Tuple, TypeVar

from .chains import next_dump
from .chains.next_dump import Decision, Seen
from .chains.numbered import advancing, finished, following, point_latest, sweep_unfinished
from .chains.retention import Rule, check
from .dump import dump, plan
from .errors import ChainError, EngineError, ImagesError, UsageError
from .images.chain import Chain, open_chain
from .images.fault import faults
from .images.manifest import read_manifest
from .options import CheckpointOptions, DumpOptions, Hook, no_hook
from .parent import is_of, reading_parent
from .prune import prune
from .results import CheckpointPlan, CheckpointResult, DumpPlan, DumpResult, PruneResult
from .target import check_target
from .tracking import state
from .tracking.trackers import Trackers

Answer = TypeVar("Answer", DumpResult, DumpPlan)


def checkpoint(options: CheckpointOptions, log: logging.Logger) -> CheckpointResult:
    """Take the next dump of the tree that OPTIONS name, let `latest` lead to it, and remove the dumps that no rule keeps.

    Raises EngineError when there is no new dump; then all others are as before, and the tree runs on.
    """
    if options.keep is not None:
        check(options.keep)
    root = _root(options)
    with advancing(root):
        swept = sweep_unfinished(root)
        point_latest(root)
        path = following(root)
        with _directory(path):
            here = replace(_going_on(options.dump), images_dir=path, hook=_hook_of(options.dump, path))
            decision, result = _either(_decide(options, log), lambda parent: dump(replace(here, prev_images_dir=parent or None), log))
        point_latest(root)
        pruned, trouble = _pruned(root, options.keep)
        point_latest(root)
    removed, freed = (pruned.removed, pruned.bytes_freed) if pruned else ((), 0)
    warnings = (*result.warnings, *trouble)
    return CheckpointResult(root, result, decision.reason, decision.why, tuple(swept), removed, freed, warnings)


def plan_checkpoint(options: CheckpointOptions, log: logging.Logger) -> CheckpointPlan:
    """Tell what `checkpoint` would do; its images root need not be there. Touches nothing. Raises EngineError as it would."""
    decision = _decide(options, log) if os.path.isdir(options.dump.images_dir) else next_dump.decide(None, 0)
    here = replace(_going_on(options.dump), images_dir="")
    decision, planned = _either(decision, lambda parent: plan(replace(here, prev_images_dir=parent or None)))
    return CheckpointPlan(options.dump.images_dir, planned, decision.parent, decision.reason, decision.why)


def _root(options: CheckpointOptions) -> str:
    root = os.path.realpath(options.dump.images_dir)
    if not os.path.isdir(root):
        raise ImagesError(f"images_dir {root} is no directory; make it first: each dump gets a directory in it")
    return root


def _going_on(options: DumpOptions) -> DumpOptions:
    """Return OPTIONS for a dump that others are to follow. Raises UsageError for what makes no sense with that."""
    if options.prev_images_dir is not None or options.leave_stopped or options.force or options.page_server is not None:
        raise UsageError(
            "a checkpoint finds the dump before it, and lets the tree run; leave out prev_images_dir, leave_stopped, force and page_server"
        )
    return replace(options, leave_running=True, track_mem=True)


def _hook_of(options: DumpOptions, path: str) -> Hook:
    """Return the hook of OPTIONS, told that the images are in PATH."""
    if options.hook is no_hook:
        return no_hook

    def hook(stage: str, environment: Mapping[str, str]) -> None:
        options.hook(stage, {"CRTOOLS_IMAGE_DIR": path, **environment})

    return hook


@contextmanager
def _directory(path: str) -> Iterator[None]:
    """Make directory PATH, and take it away again when nothing has come into it."""
    with faults("create", path):
        os.mkdir(path, 0o700)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.rmdir(path)
        raise


def _either(decision: Decision, attempt: Callable[[str], Answer]) -> Tuple[Decision, Answer]:
    """Return what the ATTEMPT with the parent decided on answers; without one, where that turns out to be unsound."""
    try:
        return decision, attempt(decision.parent)
    except ChainError as error:  # nothing was touched, or all was put back
        if not decision.parent:
            raise
        return next_dump.unsound(str(error)), attempt("")


def _decide(options: CheckpointOptions, log: logging.Logger) -> Decision:
    dumped = _going_on(options.dump)
    pids = check_target(dumped.tree)
    path = _candidate(os.path.realpath(dumped.images_dir), dumped.tree)
    return next_dump.decide(_look(replace(dumped, images_dir="/", prev_images_dir=path), pids, log) if path else None, options.full_every)


def _candidate(root: str, tree: int) -> str:
    """Return the dump in ROOT that the tracker of TREE counts from, else the newest one; empty if there is none."""
    paths = finished(root)
    claimed = state.load(tree)
    for path in paths if claimed and claimed.dump_id else ():
        with suppress(ImagesError):
            manifest = read_manifest(path)
            if manifest and claimed and manifest.id == claimed.dump_id:
                return path
    return paths[0] if paths else ""


def _look(options: DumpOptions, pids: Tuple[int, ...], log: logging.Logger) -> Seen:
    """Return what is known of the dump that OPTIONS have for the parent, but for its pages."""
    path = str(options.prev_images_dir)
    try:
        with reading_parent(options):
            chain = open_chain(path, verify=False)
            if not is_of(chain, options.tree):
                return Seen(path, same_tree=False)
            return Seen(path, length=len(chain.dumps), tracked=_tracked(options, chain, pids, log))
    except ImagesError as error:
        return Seen(path, fault=str(error))


def _tracked(options: DumpOptions, chain: Chain, pids: Tuple[int, ...], log: logging.Logger) -> bool:
    with Trackers(options, chain, log) as trackers:
        trackers.choose()
        trackers.look(pids)
        return not trackers.lost(pids)


def _pruned(root: str, keep: Optional[Rule]) -> Tuple[Optional[PruneResult], Tuple[str, ...]]:
    """Remove what KEEP does not; a failure is a warning, for the dump is made."""
    if keep is None:
        return None, ()
    try:
        pruned = prune(root, keep)
        return pruned, pruned.warnings
    except EngineError as error:
        return None, (f"no dump was removed: {error}",)
