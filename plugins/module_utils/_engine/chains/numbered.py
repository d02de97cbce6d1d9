# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The dumps of one service as they are made one after another: numbered directories in an images root, and a link to the latest."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import ImagesError
from ..images.directory import dump_files, is_dump
from ..images.fault import faults
from ..images.kept import remove_kept
from ..images.manifest import PARTIAL, is_received
from .removal import sync

LATEST = "latest"
"""The relative symbolic link in the root to the newest dump."""
_LOCK = ".checkpoint.lock"
"""Not the root itself: that is locked to read a parent, and to change it, in the course of a run."""


@contextmanager
def advancing(root: str) -> Iterator[None]:
    """Be the only one that makes the next dump in ROOT. Raises ImagesError when another run does."""
    path = os.path.join(root, _LOCK)
    with faults("lock", path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise ImagesError(f"another run makes a dump in {root}; wait for it") from error
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child may have inherited the descriptor
        os.close(fd)


def finished(root: str) -> list[str]:
    """Return the directories in ROOT of finished dumps that have a number, the newest first. Raises ImagesError."""
    return [path for path in _numbered(root) if is_dump(path)]


def following(root: str) -> str:
    """Return the directory for the next dump in ROOT: its number was never used. Raises ImagesError."""
    with faults("list", root):
        names = os.listdir(root)
        names += [os.readlink(os.path.join(root, name)) for name in names if name == LATEST]
    numbers = [int(found[1]) for found in (re.match(r"\.?(\d+)(?:\.|$)", name) for name in names) if found]
    return os.path.join(root, str(max(numbers, default=0) + 1))


def point_latest(root: str) -> None:
    """Let the link to the latest dump in ROOT lead to it, in one step; to nowhere if there is none. Raises ImagesError."""
    link = os.path.join(root, LATEST)
    newest = [os.path.basename(path) for path in finished(root)[:1]]
    with faults("link", link):
        now = [os.readlink(link)] if os.path.islink(link) else []
        if now == newest:
            return
        if not newest:
            os.unlink(link)
            return
        with suppress(FileNotFoundError):
            os.unlink(link + PARTIAL)
        os.symlink(newest[0], link + PARTIAL)
        os.rename(link + PARTIAL, link)
        sync(root)


def sweep_unfinished(root: str) -> list[str]:
    """Remove what runs that were killed have left in the numbered directories of ROOT, and return those. Raises ImagesError.

    What a dump writes right now, and what a page server has received, is left alone; so is every file that is none of a dump.
    """
    return [path for path in _numbered(root) if not is_dump(path) and not is_received(path) and _swept(path)]


def _swept(path: str) -> bool:
    with faults("remove", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as DumpDirectory does
            if is_dump(path):
                return False
            for name in dump_files(path):
                os.unlink(os.path.join(path, name))
            remove_kept(path)
            if os.listdir(path):
                return False
            os.rmdir(path)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(fd)


def _numbered(root: str) -> list[str]:
    with faults("list", root), os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.name.isdecimal() and entry.is_dir(follow_symlinks=False)]
    return [os.path.join(root, name) for name in sorted(names, key=int, reverse=True)]
