# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""One run at a time on the dumps of one images root: those that read share a lock of it (flock(2)), those that change hold it alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ImagesError
from ..images.directory import parent_link
from ..images.fault import faults


@contextmanager
def reading(images_dir: str) -> Iterator[None]:
    """Keep all from changing the dump in IMAGES_DIR and its parents; wait until who does has ended. Raises ImagesError."""
    with _locked(_roots(images_dir), fcntl.LOCK_SH):
        yield


@contextmanager
def changing(images_dir: str, wait: bool = False) -> Iterator[None]:
    """Keep all others from the dump in IMAGES_DIR and its parents. Raises ImagesError when anybody has them, unless told to WAIT."""
    with _locked(_roots(images_dir), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
        yield


@contextmanager
def changing_root(root: str) -> Iterator[None]:
    """Keep all others from the dumps in ROOT. Raises ImagesError when anybody has them."""
    with _locked([os.path.realpath(root)], fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


def _roots(images_dir: str) -> list[str]:
    """Return the directories that hold the dump in IMAGES_DIR and its parents, in the order in which all take their locks."""
    roots: set[str] = set()
    seen: set[str] = set()
    here = os.path.realpath(images_dir)
    while here and here not in seen and os.path.isdir(here):
        seen.add(here)
        roots.add(os.path.dirname(here))
        here = parent_link(here)
    return sorted(roots)


@contextmanager
def _locked(roots: list[str], how: int) -> Iterator[None]:
    fds: list[int] = []
    try:
        for root in roots:
            with faults("lock", root):
                fds.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                try:
                    fcntl.flock(fds[-1], how)
                except BlockingIOError as error:
                    raise ImagesError(f"another run works on the dumps in {root}; wait for it") from error
        yield
    finally:
        for fd in fds:
            fcntl.flock(fd, fcntl.LOCK_UN)  # a child may have inherited the descriptor
            os.close(fd)
