# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump is taken on top of: the parent, checked to be one, and one of this very tree."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Iterator, Optional, Sequence

from . import untouched
from .chains.lock import reading
from .errors import ChainError
from .images.chain import Chain, open_chain
from .images.directory import parent_path
from .images.image import ImagesDir
from .options import DumpOptions
from .resources.inventory import tree_identity
from .tracking import state


@contextmanager
def reading_parent(options: DumpOptions) -> Iterator[None]:
    """Keep all from changing the chain below the dump to be; wait until who does has ended. Raises ImagesError."""
    if options.prev_images_dir is None:
        yield
        return
    with reading(os.path.join(options.images_dir, options.prev_images_dir)):
        yield


def open_parent(options: DumpOptions) -> Optional[Chain]:
    """Return the chain below the dump to be, None for a full one. Raises ImagesError, ChainError. Touches nothing."""
    if options.prev_images_dir is None:
        return None
    path = parent_path(options.images_dir, options.prev_images_dir)
    chain = open_chain(path, verify=False)
    _check_same_tree(chain, options.tree)
    now = untouched.stamps(chain)  # before anything is read: what changes meanwhile is not known to be good
    chain.verify_images()
    untouched.verify(chain, now)
    return chain


def is_of(chain: Chain, root: int) -> bool:
    """Tell whether the newest dump of CHAIN is of the tree under ROOT, or that one was restored from it. Raises ImagesError."""
    manifest = chain.top.manifest
    if manifest is None or not manifest.id:
        return root in _pids(chain.top.images)
    return manifest.tree == tree_identity(root) or _restored_from(chain, root)


def _check_same_tree(chain: Chain, root: int) -> None:
    if is_of(chain, root):
        return
    manifest = chain.top.manifest
    if manifest is not None and manifest.id:
        theirs = f"process {manifest.tree.pid}" + ("" if manifest.tree.pid != root else ", an earlier one with this PID")
        raise ChainError(
            f"{chain.top.path} is a dump of another tree ({theirs}), not of process {root}; make a full dump, without prev_images_dir"
        )
    raise ChainError(f"{chain.top.path} is a dump of another tree, without process {root}; make a full dump, without prev_images_dir")


def _restored_from(chain: Chain, root: int) -> bool:
    """Tell whether process ROOT was restored from the newest dump of CHAIN, or has been dumped on top of one since."""
    found = state.load(root)
    return found is not None and found.dump_id == chain.dump_id


def _pids(images: ImagesDir) -> Sequence[int]:
    """Return the processes of a dump: of a pre-dump, those that have a pagemap."""
    if images.has("pstree"):
        return [entry.pid for entry in images.read("pstree")]  # type: ignore[attr-defined]
    return [int(name.split("-")[1]) for name in images.names() if name.startswith("pagemap-") and name.split("-")[1].isdigit()]
