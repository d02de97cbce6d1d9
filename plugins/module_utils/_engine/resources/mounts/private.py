# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Directories that only one service saw and that went with it: made again where they were, with their files."""

from __future__ import annotations

import os
import shutil

from . import content
from .record import Directory, Record


class PrivateDirectories:
    """What a restore made of them, to be removed if it fails."""

    def __init__(self) -> None:
        self._made: list[str] = []

    def make(self, record: Record, archive: str) -> None:
        """Make the directory that RECORD shows, and the one above it if that is gone too, from the archive at path ARCHIVE.

        Raises OSError, tarfile.TarError.
        """
        above = os.path.dirname(record.path)
        for directory in record.parents:
            if not os.path.isdir(above):
                self._directory(above, directory)
        self._directory(record.path, Directory(0o700, 0, 0))
        fd = os.open(record.path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            content.unpack(archive, fd)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove them. Raises OSError."""
        while self._made:
            shutil.rmtree(self._made.pop())

    def _directory(self, path: str, directory: Directory) -> None:
        os.mkdir(path, 0o700)
        self._made.append(path)
        os.chown(path, directory.uid, directory.gid)
        os.chmod(path, directory.mode)
