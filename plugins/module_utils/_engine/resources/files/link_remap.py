# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files whose path no longer leads to them, but which have other names: given one of ours beside the old path (option link_remap).

images: remap-fpath (type LINKED), files.img (a reg_file_entry for our name). The name is there from the dump until the tree is
restored from it, so that happens once.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from ...errors import ImagesError
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import DumpContext, Entry

AT_SYMLINK_FOLLOW = 0x400
_AT_FDCWD = -100
_NAME = "link_remap.{}"
"""CRIU's, which takes what is called so for its own."""


def may_link(path: str, status: os.stat_result) -> bool:
    """Tell whether the file of STATUS can be given a name beside PATH."""
    try:
        return not stat.S_ISDIR(status.st_mode) and os.stat(os.path.dirname(path)).st_dev == status.st_dev
    except OSError:
        return False


def _link(local: int, path: str) -> None:
    syscall("linkat", _AT_FDCWD, f"/proc/self/fd/{local}\0".encode(), _AT_FDCWD, path.encode() + b"\0", AT_SYMLINK_FOLLOW)


class LinksDump:
    """The names that a dump makes. `close` removes them unless the dump is there to need them."""

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], int] = {}
        self._made: list[str] = []

    def add(self, context: DumpContext, local: int, path: str, status: os.stat_result) -> int:
        """Give the file that our descriptor LOCAL has open a name beside PATH, once; return the file id of that. OSError when it cannot."""
        key = (status.st_dev, status.st_ino)
        if key not in self._ids:
            number = self._ids[key] = context.new_id()
            name = self._make(local, os.path.dirname(path), number)
            owner = message("fown_entry")(uid=0, euid=0, signum=0, pid_type=0, pid=0)
            context.add("REG", message("reg_file_entry")(id=number, flags=0, pos=0, fown=owner, name=name, mode=status.st_mode))
        return self._ids[key]

    def _make(self, local: int, directory: str, number: int) -> str:
        while True:
            path = os.path.join(directory, _NAME.format(number))
            try:
                _link(local, path)
            except FileExistsError:  # another dump's
                number += 1
            else:
                self._made.append(path)
                return path

    def keep(self) -> None:
        """Let the names be: the dump is complete."""
        self._made.clear()

    def close(self) -> None:
        """Remove the names."""
        while self._made:
            os.unlink(self._made.pop())


class LinksRestore:
    """Opens files by the names that the dump gave them, and removes these in the end."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        """By the file id of what was open."""

    def open(self, file_id: int, path: str, flags: int) -> int:
        """Open a file under its old PATH, which it gets for a moment, or where something else has taken that under our name."""
        name = self.names[file_id]
        if os.path.lexists(path):
            return os.open(name, flags)
        os.link(name, path, follow_symlinks=False)
        try:
            return os.open(path, flags)
        finally:
            os.unlink(path)

    def settle(self) -> None:
        """Remove the names that the dump has made."""
        for name in set(self.names.values()):
            os.unlink(name)
        self.names.clear()


def linked(images: ImagesDir, entries: Mapping[int, Entry], remap: Entry) -> str:
    """Return the name that REMAP, a remap_file_path_entry, leads to. Raises ImagesError when IMAGES lack it."""
    if remap.remap_id not in entries:
        raise ImagesError(f"{images.file('files')} lacks the name {remap.remap_id} of a file; use another copy of the dump")
    return str(entries[remap.remap_id].name)
