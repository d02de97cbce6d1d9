# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking whole dumps away so that at no moment half a dump is left under its name, nor one without its parent.

A dump is first renamed, in one step, to a name that nobody takes for a dump; what was interrupted is ended by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..images.directory import INVENTORY, is_dump, parent_link
from ..images.fault import faults
from ..images.kept import remove_kept
from .listing import directories

_GOING = ".removed"


def remove(paths: Sequence[str]) -> None:
    """Remove the dumps in directories PATHS, which are real paths, each before its parent. Raises ImagesError.

    Directories in them are no part of a dump: they are left, and with them the directory that they are in.
    """
    gone = []
    for path in paths:
        with faults("remove", path):
            os.rename(path, hidden(path, _GOING))
            sync(os.path.dirname(path))
        gone.append(hidden(path, _GOING))
    for path in reversed(gone):
        empty(path)


def sweep(root: str) -> None:
    """End what was interrupted of a removal in ROOT. Raises ImagesError."""
    with faults("list", root):
        names = [name for name in os.listdir(root) if name.startswith(".") and name.endswith(_GOING)]
    for name in names:
        empty(os.path.join(root, name))


def empty(path: str) -> None:
    """Remove all files in directory PATH, first that which makes it a dump; and PATH, if nothing is left in it. Raises ImagesError."""
    with faults("remove", path):
        for name in sorted(os.listdir(path), key=lambda name: name != INVENTORY):
            inside = os.path.join(path, name)
            if os.path.islink(inside) or not os.path.isdir(inside):
                os.unlink(inside)
        remove_kept(path)
        if not os.listdir(path):
            os.rmdir(path)


def hidden(path: str, suffix: str) -> str:
    """Return the name for PATH under which nobody takes it for a dump; it starts with a dot and ends with SUFFIX."""
    root, name = os.path.split(path)
    return os.path.join(root, f".{name}{suffix}")


def unhidden(path: str) -> str:
    """Return where the dump of PATH is now: there, or under the name that `remove` gives it, or nowhere and then the empty string."""
    return next((one for one in (path, hidden(path, _GOING)) if os.path.isdir(one)), "")


def dependents(path: str) -> set[str]:
    """Return the directories beside PATH whose dumps are made on top of the one in PATH. Raises ImagesError."""
    return {other for other in directories(os.path.dirname(path)) if parent_link(other) == path and is_dump(other)}


def sync(path: str) -> None:
    """Bring the names in directory PATH to disk. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
