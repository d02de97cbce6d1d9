# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `dedup`: free, in all the parents of a dump, the pages that the dump does not read from them.

These are the pages that a newer dump holds itself, those of tasks that have exited since, and those of memory given back since.
Afterwards the newest dump restores as before; the parents that lost pages do not, and their manifests say so.
Or, to keep all of them restorable, only what is there twice for real: zeros, pages equal to the parent's, and equal pages that can
come to lie in one place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .chains.lock import changing
from .errors import ChainError
from .images.chain import Chain, Dump, open_chain
from .images.manifest import rewrite_pages
from .images.pagemap import PAGE_SIZE, Run, iterate_runs, pages_id, pages_path
from .images.punch import Superfluous, allocated_bytes, check_punching, punch, without
from .images.ranges import Range, difference, merged, total


@dataclass(frozen=True)
class DedupResult:
    """What `dedup` did, or would do."""

    images_dir: str
    pages_punched: int
    bytes_freed: int
    """Blocks given back to the filesystem (st_blocks × 512), not sizes."""
    bytes_before: int
    bytes_after: int
    punched: tuple[str, ...]
    """The parents that lost pages: they cannot be restored by themselves any more."""
    warnings: tuple[str, ...] = ()
    bytes_shared: int = 0
    """Of equal pages that lie in one place now, and did not before; st_blocks tells nothing of it."""


def dedup(images_dir: str, check: bool = False, wait: bool = False, keep_restorable: bool = False) -> DedupResult:
    """Free what the parents of the dump in IMAGES_DIR hold and it does not need; with CHECK only tell.

    With KEEP_RESTORABLE free what none of them needs, so that each restores as before.

    Safe to interrupt and to repeat. Raises ChainError for a chain that is not whole, ImagesError for a filesystem that cannot
    punch holes, and while another run works on the chain, unless told to WAIT; then nothing was changed.
    """
    with changing(images_dir, wait):
        return _keeping(images_dir, check) if keep_restorable else _dedup(images_dir, check)


def _keeping(images_dir: str, check: bool) -> DedupResult:
    from .chains.doubles import free_zeros, leave_to_parent
    from .chains.replacement import remove_old
    from .chains.sharing import share_equal

    if not check:
        for dump in open_chain(images_dir, verify=False).dumps:
            remove_old(os.path.realpath(dump.path))  # an earlier run was killed
    chain = open_chain(images_dir, verify=False)
    chain.check_ready()
    before = _allocated(chain)
    pages = 0
    for level in reversed(range(len(chain.dumps))):
        pages += leave_to_parent(chain.below(level), check)
        chain = open_chain(images_dir, verify=False)
        pages += free_zeros(chain.dumps[level], check)
    shared = share_equal(chain, check)
    after = before - pages * PAGE_SIZE if check else _allocated(chain)
    return DedupResult(images_dir, pages, before - after, before, after, (), bytes_shared=shared)


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
    """Yield for each parent in CHAIN the pages that it holds and that the newest dump does not read. Raises ChainError."""
    free: list[dict[str, list[Range]]] = [{} for _dump in chain.dumps]
    for name in dict.fromkeys(name for dump in chain.dumps for name in dump.pagemaps()):
        _add_superfluous(chain, name, free)
    for dump, pages in zip(chain.dumps[1:], free[1:]):
        yield Superfluous(dump, {name: tuple(merged(ranges)) for name, ranges in pages.items() if ranges})


def _add_superfluous(chain: Chain, name: str, free: list[dict[str, list[Range]]]) -> None:
    """Add to FREE, by level in CHAIN and name of the pages file, the pages in pagemap NAME that the newest dump does not read."""
    needed: list[Range] | None = None
    for dump, pages in zip(chain.dumps, free):
        if not dump.images.has(name):
            if needed:
                chain.extents(name)
            needed = []
            continue
        runs = iterate_runs(dump.images, name)
        if needed is None:
            needed = [(run.start, run.end) for run in runs if run.in_parent]
            continue
        pages_name = _pages_name(dump, name)
        if pages_name in pages:
            raise ChainError(f"{dump.path} has two pagemaps of {pages_name}; use another copy of the dump", dump.images.file(name))
        found = _compared(runs, needed)
        pages[pages_name] = found.free
        if found.known != total(needed) or not _holds(dump, pages_name, found.held, found.free):
            chain.extents(name)  # tells what is missing
        needed = found.needed
    if needed:
        chain.extents(name)


def _holds(dump: Dump, name: str, pages: int, free: Sequence[Range]) -> bool:
    """Return whether pages file NAME of DUMP is as long as its PAGES, and none of them is gone but of those to FREE."""
    record = dump.manifest.pages.get(name) if dump.manifest else None
    path = os.path.join(dump.path, name)
    if pages and (not os.path.isfile(path) or os.path.getsize(path) < pages * PAGE_SIZE):
        return False
    return record is None or not record.gone or not total(difference(record.gone, free))


class _Compared(NamedTuple):
    """What one dump holds of a pagemap, compared with what a newer one reads there."""

    free: list[Range]
    """Pages of the pages file that it does not read."""
    needed: list[Range]
    """Addresses that it reads and that are left to the parent."""
    known: int
    """Bytes that it reads and that are here or left to the parent."""
    held: int
    """Pages of the pages file."""


def _compared(runs: Iterable[Run], needed: Sequence[Range]) -> _Compared:
    """Compare RUNS with the addresses NEEDED, both sorted, in one walk along both."""
    free: list[Range] = []
    left: list[Range] = []
    known = index = place = 0
    for start, pages, in_parent in runs:
        at, end = start, start + pages * PAGE_SIZE
        first = index - start // PAGE_SIZE
        while place < len(needed) and needed[place][0] < end:
            low, high = needed[place]
            low, stop = max(low, at), min(high, end)
            if low < stop:
                known += stop - low
                if in_parent:
                    left.append((low, stop))
                elif at < low:
                    free.append((first + at // PAGE_SIZE, first + low // PAGE_SIZE))
                at = stop
            if high > end:
                break
            place += 1
        if not in_parent:
            if at < end:
                free.append((first + at // PAGE_SIZE, first + end // PAGE_SIZE))
            index += pages
    return _Compared(free, left, known, index)


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
