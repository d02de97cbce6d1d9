# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""In what the mounts of one namespace differ from those of another that they were copied from."""

from __future__ import annotations

from dataclasses import dataclass
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...kernel.mountinfo import Mount


class Tree:
    """The mounts of one namespace, each below the one that it is mounted on."""

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self.by_id: Mapping[int, Mount] = {mount.id: mount for mount in mounts}
        self._children: dict[int, list[Mount]] = {}
        for mount in mounts:
            self._children.setdefault(mount.parent, []).append(mount)
        self.root = next(mount for mount in mounts if mount.parent not in self.by_id or mount.parent == mount.id)

    def children(self, mount: Mount) -> list[Mount]:
        """Return what is mounted on MOUNT itself, deeper places first: a mount on a directory hides what comes below it."""
        found = [child for child in self._children.get(mount.id, []) if child.id != mount.id]
        return sorted(found, key=lambda child: -child.place.count("/"))

    def all(self) -> Iterator[Mount]:
        """Yield all, each after the one that it is on, and in the order in which they can be mounted."""
        yield from self._below(self.root)

    def _below(self, mount: Mount) -> Iterator[Mount]:
        yield mount
        for child in self.children(mount):
            yield from self._below(child)

    def within(self, mount: Mount) -> str:
        """Return where MOUNT is, relative to the mount that it is on; empty for its very root."""
        parent = self.by_id.get(mount.parent)
        return mount.place[len(parent.place) :].strip("/") if parent and parent.place != "/" else mount.place.strip("/")


@dataclass(frozen=True)
class Difference:
    """What makes the one namespace of the other."""

    alike: Mapping[int, Mount]
    """The mounts of the other that are here too, by the numbers of ours."""
    removed: tuple[Mount, ...]
    """Mounts of the other that are not here; what is below them is not either."""


def alike(one: Mount, other: Mount) -> bool:
    """Tell whether both show the same part of the same filesystem."""
    return (one.device, one.root) == (other.device, other.root)


def compare(theirs: Tree, ours: Tree) -> Difference:
    """Compare namespace THEIRS with OURS, whose roots are alike."""
    pairs = {theirs.root.id: ours.root}
    removed: list[Mount] = []
    for mount in theirs.all():
        if mount.id in pairs:
            removed += _pair(theirs, ours, mount, pairs)
    return Difference(pairs, tuple(removed))


def _pair(theirs: Tree, ours: Tree, mount: Mount, pairs: dict[int, Mount]) -> Iterable[Mount]:
    """Find the counterparts of what is on MOUNT; return what of ours has none."""
    left = ours.children(pairs[mount.id])
    for child in theirs.children(mount):
        found = next((one for one in left if ours.within(one) == theirs.within(child) and alike(one, child)), None)
        if found:
            left.remove(found)
            pairs[child.id] = found
    return left
