# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Restoring the mount namespace of a tree: a copy of ours, changed into the one that was dumped.

Nothing outside can see it, but for private directories that are gone, which are made again where they were.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from ...errors import Obstacle, RestoreError
from ...images.image import ImagesDir
from ...kernel.mount import new_namespace
from ..uts import carries as carries_names
from .build import Builder
from .inside import Inside
from .private import PrivateDirectories
from .record import Record, from_entry

_NAMES = {"net": "network", "ipc": "IPC", "uts": "UTS", "pid": "PID", "mnt": "mount"}
_NAMESPACES = ("pid", "net", "ipc", "uts", "time", "mnt", "user", "cgroup")


class MountsRestore:
    """The mount namespace of a dump. A context manager: what a failed restore made is taken away again at its end."""

    def __init__(self, images: ImagesDir, pids: Sequence[int]) -> None:
        self._images = images
        self._pids = pids
        self._records: list[Record] = []
        self._refused: list[Obstacle] = []
        self._inside: Inside | None = None
        self._stack = ExitStack()
        self._directories = PrivateDirectories()
        self._root: int | None = None

    def __enter__(self) -> MountsRestore:
        """Read the images. Raises ImagesError."""
        self._refused = list(self._foreign())
        if self._records and not self._refused:
            self._images = ImagesDir(f"/proc/self/fd/{self._keep(self._images.path)}")
            self._root = self._keep("/")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if kind is not None:
            self._directories.remove()

    @property
    def root(self) -> int | None:
        """A descriptor of the root of our own namespace, where some files may have to be opened; None when the tree is in it."""
        return self._root

    @property
    def images(self) -> ImagesDir:
        """The images, by a path that leads to them in either namespace."""
        return self._images

    def check(self) -> list[Obstacle]:
        """Return what keeps the namespaces of the dump from being made again; make the one of mounts, for a trial. Touches nothing."""
        return self._refused or self._make(trial=True)

    def make(self) -> None:
        """Make the namespace that the tree is to have. Raises RestoreError."""
        obstacles = self._make(trial=False)
        if obstacles:
            raise RestoreError("; ".join(map(str, obstacles)), obstacles)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call FUNCTION where the paths are those of the tree; return or raise what it does."""
        return self._inside.run(function, *args) if self._inside else function(*args)

    def descriptor(self) -> int | None:
        """Return a descriptor of the namespace, the caller's to close; None when the tree is to be in ours. Raises OSError."""
        return os.open(self._inside.proc("ns/mnt"), os.O_RDONLY | os.O_CLOEXEC) if self._inside else None

    def _make(self, trial: bool) -> list[Obstacle]:
        if not self._records:
            return []
        try:
            inside = self._stack.enter_context(Inside(new_namespace))
        except OSError as error:
            return [Obstacle(0, "mount namespace", f"it cannot be made ({error})", "run as root, with CAP_SYS_ADMIN")]
        builder = Builder(self._records, self._images, self._directories, inside.proc("mountinfo"), trial)
        obstacles: list[Obstacle] = inside.run(builder.build)
        self._inside = inside
        return obstacles

    def _foreign(self) -> Iterator[Obstacle]:
        """Read the mounts, and refuse the namespaces that cannot be made."""
        inventory: Any = self._images.read_one("inventory")
        for pid in self._pids if inventory.HasField("root_ids") else ():
            ids: Any = self._images.read(f"ids-{pid}")[0]
            for name in _NAMESPACES:
                number, own = (getattr(one, f"{name}_ns_id") for one in (ids, inventory.root_ids))
                if number and own and number != own and not self._carried(name, number):
                    why = "it was not that of the dump's maker, and such a namespace is not restored yet"
                    yield Obstacle(pid, f"{_NAMES.get(name, name)} namespace", why, "restore it with CRIU")

    def _carried(self, name: str, number: int) -> bool:
        """Tell whether namespace NUMBER, of the kind that is called NAME in /proc, is one that can be made."""
        return name == "mnt" and self._read(number) or name == "uts" and carries_names(self._images, number)

    def _read(self, number: int) -> bool:
        """Read the mounts of namespace NUMBER; return whether it is one that we can make."""
        image = f"mountpoints-{number}"
        entries: list[Any] = list(self._images.read(image)) if self._images.has(image) else []
        if not entries or not all(entry.HasField("stillframe") for entry in entries):
            return False
        self._records = [from_entry(entry) for entry in entries]
        return True

    def _keep(self, path: str) -> int:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, fd)
        return fd
