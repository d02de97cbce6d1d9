# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Changing a copy of our mount namespace into the one that was dumped, from within."""

from __future__ import annotations

import errno
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ...errors import Obstacle
from ...images.image import ImagesDir
from ...kernel.mount import (
    MS_PRIVATE,
    MS_SHARED,
    MS_UNBINDABLE,
    Filesystem,
    attributes,
    mount_at,
    mount_id,
    move_mount,
    open_tree,
    set_attributes,
    set_propagation,
    unmount,
)
from ...kernel.mountinfo import Mount, mounts
from . import content
from .difference import Tree
from .private import PrivateDirectories
from .record import BIND, INHERITED, NEW, PART, Record

_STAND_IN = ("mode=700",)
"""Options of the tmpfs that stands for a private directory in a trial."""


class Builder:
    """Makes the mounts of RECORDS in the namespace of the calling thread, which `kernel.mount.new_namespace` made."""

    def __init__(
        self, records: Sequence[Record], images: ImagesDir, directories: PrivateDirectories, mountinfo: str, trial: bool
    ) -> None:
        """MOUNTINFO: the path, in any namespace, that lists the mounts of the calling thread. TRIAL: make no directory anywhere."""
        self._records = records
        self._images = images
        self._directories = directories
        self._mountinfo = mountinfo
        self._trial = trial
        self._tree = Tree([record.mount for record in records])
        self._obstacles: list[Obstacle] = []
        self._mounts: dict[int, int] = {}
        """Descriptors of the roots of mounts, by their numbers in the images."""
        self._found: dict[int, Mount] = {}
        """What is here already, by its number in the images."""

    def build(self) -> list[Obstacle]:
        """Make them all; return what is in the way."""
        os.chdir("/")
        with ExitStack() as stack:
            stack.callback(self._close)
            here = Tree(mounts(self._mountinfo))
            if any(mount.shared for mount in here.by_id.values()):
                return [Obstacle(0, "mount namespace", "it would tell ours of its mounts", "see whether / can be made a slave (mount(8))")]
            self._match(here)
            for make, origin in ((self._new, NEW), (self._bind, BIND), (self._part, PART)):
                for record in self._records:
                    if record.origin == origin:
                        with self._telling(record):
                            self._mounts[record.mount.id] = make(record, here)
            for change in (self._remove, self._change, self._spread, self._verify):
                if not self._obstacles:
                    change(here)
        return self._obstacles

    def _close(self) -> None:
        while self._mounts:
            os.close(self._mounts.popitem()[1])

    @contextmanager
    def _telling(self, record: Record) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            what = f"{record.path} " if record.path else ""
            why = f"it cannot be made again: {what}({error})"
            self._obstacles.append(Obstacle(0, record.where, why, "put back what it shows and the place that it is mounted on"))

    def _match(self, here: Tree) -> None:
        """Find the mounts that are here already."""
        taken: set[int] = set()
        for record in self._records:
            mount = record.mount
            if mount.id == self._tree.root.id:
                found: Mount | None = here.root
            elif record.origin == INHERITED and mount.parent in self._found:
                found = self._counterpart(mount, [one for one in here.children(self._found[mount.parent]) if one.id not in taken], here)
            else:
                found = None
            if found:
                taken.add(found.id)
                self._found[mount.id] = found
                self._reach(mount.id, found)

    def _counterpart(self, mount: Mount, candidates: Sequence[Mount], here: Tree) -> Mount | None:
        key = (self._tree.within(mount), mount.root, mount.fstype)
        return next((one for one in candidates if (here.within(one), one.root, one.fstype) == key), None)

    def _reach(self, number: int, found: Mount) -> None:
        """Open the root of FOUND, unless another mount hides it."""
        fd = os.open(found.place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if mount_id(fd) == found.id:
            self._mounts[number] = fd
        else:
            os.close(fd)

    def _new(self, record: Record, here: Tree) -> int:
        mount = record.mount
        with Filesystem(mount.fstype, mount.source, mount.super_options) as filesystem:
            fd = filesystem.mount()
            if record.content:
                content.unpack(self._archive(record), fd)
            filesystem.settle()
        return fd

    def _bind(self, record: Record, here: Tree) -> int:
        if record.content and not os.path.lexists(record.path):
            if self._trial:
                with Filesystem("tmpfs", "tmpfs", _STAND_IN) as filesystem:
                    fd = filesystem.mount()
                    content.unpack(self._archive(record), fd)
                return fd
            self._directories.make(record, self._archive(record))
        if record.whole and not any(mount.place == record.path for mount in here.by_id.values()):
            raise FileNotFoundError(f"nothing is mounted at {record.path}")
        return open_tree(record.path)

    def _part(self, record: Record, here: Tree) -> int:
        whole = next(one for one in self._records if one.origin == NEW and one.mount.device == record.mount.device)
        root = self._mounts[whole.mount.id]
        try:
            return open_tree(f"/proc/self/fd/{root}{record.path}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self._put_aside(root)
        return open_tree(f"/proc/self/fd/{root}{record.path}")

    def _put_aside(self, root: int) -> None:
        """Mount ROOT somewhere until it gets to its place: before Linux 6.15 nothing can be cloned of what is mounted nowhere.

        That is on /, where no path leads to: it starts below.
        """
        place = os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            move_mount(root, place)
        finally:
            os.close(place)

    def _archive(self, record: Record) -> str:
        return os.path.join(self._images.path, os.path.basename(record.content))

    def _remove(self, here: Tree) -> None:
        """Take away what is here and was not there."""
        kept = {mount.id for mount in self._found.values()}
        surplus = {mount.id: mount for mount in here.by_id.values() if mount.id not in kept}
        for place in self._records[0].removed:
            if any(mount.place == place for mount in surplus.values()):
                with self._telling(self._records[0]):
                    if mount_at(place) not in surplus:
                        raise OSError(f"what is mounted at {place} is hidden")
                    unmount(place)

    def _change(self, here: Tree) -> None:
        """Give what is here the attributes that it had, and mount the rest, in the order of the images."""
        for record in self._records:
            mount, wanted = record.mount, attributes(record.mount.options)
            with self._telling(record):
                if mount.id in self._found:
                    # what another mount hides has no path by which to change it, nor to see it
                    if mount.id in self._mounts and attributes(self._found[mount.id].options) != wanted:
                        set_attributes(self._mounts[mount.id], wanted)
                elif record.origin != INHERITED:
                    set_attributes(self._mounts[mount.id], wanted)
                    self._attach(mount)

    def _attach(self, mount: Mount) -> None:
        parent, within = self._reached(mount.parent), self._tree.within(mount)
        place = os.open(within, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent) if within else os.dup(parent)
        try:
            if mount_id(place) != mount_id(parent):
                raise OSError("another mount is in its place")
            move_mount(self._mounts[mount.id], place)
        finally:
            os.close(place)

    def _reached(self, number: int) -> int:
        if number not in self._mounts:
            raise OSError(f"{self._tree.by_id[number].place} is not mounted, or hidden")
        return self._mounts[number]

    def _spread(self, here: Tree) -> None:
        """Set which mounts tell others of theirs, last: until now none could."""
        for record in self._records:
            mount = record.mount
            kind = MS_SHARED if mount.shared else MS_UNBINDABLE if mount.unbindable else 0 if mount.master else MS_PRIVATE
            if kind and mount.id in self._mounts:
                with self._telling(record):
                    set_propagation(self._mounts[mount.id], kind)

    def _verify(self, here: Tree) -> None:
        """See that all is as it was."""
        now = {mount.id: mount for mount in mounts(self._mountinfo)}
        for record in self._records:
            if record.mount.id in self._mounts:
                found, wanted = now.get(mount_id(self._mounts[record.mount.id])), record.mount
                if not found or (found.place, attributes(found.options)) != (wanted.place, attributes(wanted.options)):
                    why = f"it became {found.place if found else 'no mount'} ({','.join(sorted(found.options)) if found else ''})"
                    self._obstacles.append(Obstacle(0, record.where, why, "restore it on the machine that it was dumped on"))
