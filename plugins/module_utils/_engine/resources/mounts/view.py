# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths as a tree sees them, which may be in another mount namespace than we are."""

from __future__ import annotations

import os

from ...kernel.mount import mount_id
from ...kernel.mountinfo import mounts
from .inside import inside_of, is_ours


class TreeView:
    """Looks up the paths of files that a tree has open. While it was not opened for another namespace, the paths are ours."""

    def __init__(self) -> None:
        self._root: int | None = None
        self._mounts: frozenset[int] = frozenset()

    def open(self, pid: int) -> None:
        """Look as PID does. Raises OSError when it is gone."""
        self.close()
        if is_ours(pid):
            return
        with inside_of(pid) as inside:
            self._mounts = frozenset(mount.id for mount in mounts(inside.proc("mountinfo")))
            self._root = inside.run(os.open, "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Look as we do ourselves."""
        if self._root is not None:
            os.close(self._root)
            self._root = None

    @property
    def foreign(self) -> bool:
        """Whether the tree is in another namespace than we are."""
        return self._root is not None

    def outside(self, local: int) -> bool:
        """Tell whether the file that our descriptor LOCAL has open was not opened in the namespace of the tree."""
        return self._root is not None and local >= 0 and mount_id(local) not in self._mounts

    def lstat(self, path: str, local: int = -1) -> os.stat_result:
        """Return what is found at PATH where the file of our descriptor LOCAL, by default one of the tree, was opened. Raises OSError."""
        if self._root is None or self.outside(local):
            return os.lstat(path)
        return os.lstat(path.lstrip("/") or ".", dir_fd=self._root)


OUR_OWN = TreeView()
"""Paths as we see them."""
