# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `dedup`: free, in all the parents of a dump, the pages that the dump does not read from them.

These are the pages that a newer dump holds itself, those of tasks that have exited since, and those of memory given back since.
Afterwards the newest dump restores as before; the parents that lost pages do not, and their manifests say so.
Or, to keep all of them restorable, only what is there twice for real: zeros, and pages equal to the parent's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from .chains.doubles import free_zeros, leave_to_parent
from .chains.lock import changing
from .chains.replacement import remove_old
from .images.chain import Chain, Dump, open_chain
from .images.manifest import rewrite_pages
from .images.pagemap import PAGE_SIZE, iterate_runs, pages_id, pages_path
from .images.punch import Superfluous, allocated_bytes, check_punching, punch, without
from .images.ranges import Range, difference, union
from .results import DedupResult


def dedup(images_dir: str, check: bool = False, wait: bool = False, keep_restorable: bool = False) -> DedupResult:
    """Free what the parents of the dump in IMAGES_DIR hold and it does not need; with CHECK only tell.

    With KEEP_RESTORABLE free what none of them needs, so that each restores as before.

    Safe to interrupt and to repeat. Raises ChainError for a chain that is not whole, ImagesError for a filesystem that cannot
    punch holes, and while another run works on the chain, unless told to WAIT; then nothing was changed.
    """
    with changing(images_dir, wait):
        return _keeping(images_dir, check) if keep_restorable else _dedup(images_dir, check)


def _keeping(images_dir: str, check: bool) -> DedupResult:
    if not check:
        for dump in open_chain(images_dir, verify=False).dumps:
            remove_old(os.path.realpath(dump.path))  # an earlier run was killed
    chain = open_chain(images_dir, verify=False)
    before = _allocated(chain)
    pages = 0
    for level in reversed(range(len(chain.dumps))):
        pages += leave_to_parent(chain.below(level), check)
        chain = open_chain(images_dir, verify=False)
        pages += free_zeros(chain.dumps[level], check)
    after = before - pages * PAGE_SIZE if check else _allocated(chain)
    return DedupResult(images_dir, pages, before - after, before, after, ())


def _dedup(images_dir: str, check: bool) -> DedupResult:
    chain = open_chain(images_dir, verify=False, pages_only=True)
    chain.verify_images()  # a wrong bit in a pagemap would free what is needed
    plan = [superfluous for superfluous in _superfluous(chain) if superfluous.new() or superfluous.bytes_allocated()]
    before = _allocated(chain)
    fresh = [superfluous for superfluous in plan if superfluous.new()]
    pages = sum(superfluous.new() for superfluous in fresh)
    punched = tuple(superfluous.dump.path for superfluous in fresh)
    if check:
        after = before - sum(superfluous.bytes_allocated() for superfluous in plan)
    else:
        _punch_all(plan)
        after = _allocated(chain)
    warnings = () if len(chain.dumps) > 1 else (f"{images_dir} has no parent: there is nothing to deduplicate",)
    return DedupResult(images_dir, pages, before - after, before, after, punched, warnings)


def everything(chain: Chain) -> list[Superfluous]:
    """Return all pages of CHAIN, to be freed."""
    return [Superfluous(dump, {name: ((0, count),) for name, count in _pages_held(dump).items() if count}) for dump in chain.dumps]


def _punch_all(plan: list[Superfluous]) -> None:
    """Check every part of PLAN, then carry it out."""
    manifests = [without(superfluous) for superfluous in plan]
    for superfluous in plan:
        for name in superfluous.pages:
            check_punching(superfluous.dump, name)
    for superfluous, manifest in zip(plan, manifests):
        rewrite_pages(superfluous.dump.path, manifest)
        punch(superfluous)


def _superfluous(chain: Chain) -> Iterator[Superfluous]:
    """Yield for each parent in CHAIN the pages that it holds and that the newest dump does not read."""
    needed: dict[str, list[Range]] = {}
    for name in chain.top.pagemaps():
        for extent in chain.iterate_extents(name):
            first = extent.offset // PAGE_SIZE
            needed.setdefault(extent.path, []).append((first, first + extent.pages))
    for dump in chain.dumps[1:]:
        held = {name: [(0, count)] for name, count in _pages_held(dump).items()}
        kept = {name: union(needed.get(os.path.join(dump.path, name), ())) for name in held}
        free = {name: tuple(difference(ranges, kept[name])) for name, ranges in held.items()}
        yield Superfluous(dump, {name: ranges for name, ranges in free.items() if ranges})


def _pages_held(dump: Dump) -> dict[str, int]:
    """Return how many pages each pages file of DUMP holds, by its name."""
    return {
        _pages_name(dump, name): sum(run.pages for run in iterate_runs(dump.images, name) if not run.in_parent) for name in dump.pagemaps()
    }


def _pages_name(dump: Dump, name: str) -> str:
    return os.path.basename(pages_path(dump.path, pages_id(dump.images, name)))


def _allocated(chain: Chain) -> int:
    """Return the bytes that all pages files of CHAIN take on disk."""
    return sum(allocated_bytes(os.path.join(dump.path, _pages_name(dump, name))) for dump in chain.dumps for name in dump.pagemaps())
