# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `squash`: let a dump hold all its pages itself, and remove the parents that nobody counts on any more.

The dump keeps its id, so that the dumps made on top of it, and the trackers that count from it, go on as before. Space is freed
only when the full dump has taken its place, not before: until then the parents are what it restores from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from .chains.listing import PIN
from .chains.lock import changing
from .chains.merged import merging, pages_between
from .chains.removal import dependents, remove, sweep, unhidden
from .chains.replacement import old_of, put_in_place, remove_old, was_put
from .images.chain import Chain, open_chain
from .images.directory import bytes_on_disk, parent_link
from .images.pagemap import PAGE_SIZE
from .results import SquashResult


def squash(images_dir: str, keep_parents: bool = False, check: bool = False) -> SquashResult:
    """Make the dump in IMAGES_DIR a full one, and unless told to KEEP_PARENTS remove those of its parents that no other dump needs.

    Safe to interrupt, and to repeat: then it is carried to its end. With CHECK it only tells. Raises ChainError for a chain that
    is not whole, such as a dump that dedup has freed pages of, ImagesError for what the filesystem refuses; then all is as before.
    """
    path = os.path.realpath(images_dir)
    with changing(path):
        if not check:
            _carry_on(path, keep_parents)
        chain = open_chain(path, verify=False)
        chain.verify()
        going = [] if keep_parents else list(_removable(path))
        merged = pages_between(chain, len(chain.dumps))
        before = sum(map(bytes_on_disk, [path, *going]))
        if not check and len(chain.dumps) > 1:
            put_in_place(chain, len(chain.dumps), merging(chain, len(chain.dumps)))
            remove(going)
            remove_old(path)
        after = bytes_on_disk(path) + (merged * PAGE_SIZE if check else 0)
    warnings = _warnings(chain, going, keep_parents)
    return SquashResult(images_dir, len(chain.dumps) > 1, merged, tuple(going), before - after, before, after, warnings)


def _carry_on(path: str, keep_parents: bool) -> None:
    """End what an earlier run left that was killed."""
    if was_put(path) and not keep_parents:
        remove(list(_removable(old_of(path))))
    remove_old(path)
    sweep(os.path.dirname(path))


def _removable(path: str) -> Iterator[str]:
    """Yield the parents of the dump in PATH that may go, newest first; those that were taken away already are passed over."""
    root = os.path.dirname(path)
    child, here = path, parent_link(path)
    while here and os.path.dirname(here) == root:
        there = unhidden(here)
        if not there or os.path.lexists(os.path.join(there, PIN)) or dependents(here) - {child}:
            return
        if there == here:
            yield here
        child, here = here, parent_link(there)


def _warnings(chain: Chain, going: list[str], keep_parents: bool) -> tuple[str, ...]:
    if len(chain.dumps) == 1:
        return (f"{chain.top.path} has no parent: it is a full dump already",)
    kept = [os.path.realpath(dump.path) for dump in chain.dumps[1:] if os.path.realpath(dump.path) not in going]
    if kept and not keep_parents:
        return (f"parents are kept that are pinned, needed by other dumps, or not beside the dump: {', '.join(kept)}",)
    return ()
