# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumping the mount namespace of a tree: in what it differs from ours, and the files that only it has.

images: mountpoints-ID, and the archives of content.py. A tree in our own namespace has none of these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from ...errors import KernelError, Obstacle, TargetError, UnsupportedError
from ...images.image import ImagesDir
from ...kernel import procfs
from ...kernel.mount import mount_at
from ...kernel.mountinfo import Mount, mounts
from ...options import DumpOptions
from . import content
from .difference import Tree, alike, compare
from .inside import Inside, inside_of, is_ours, namespaces_of
from .record import BIND, INHERITED, NEW, PART, Directory, Record, kernel_device, to_entry

NAMESPACE_ID = 9
"""The number of the namespace in the images: those of ours come before."""
PRIVATE_DIRECTORIES = ("/tmp", "/var/tmp", "/run/systemd/incoming")
"""Where a service finds a directory of its own that goes when it ends: by PrivateTmp=, and what systemd itself mounts (systemd.exec(5))."""
CONTENT_LIMIT = 64 << 20
"""Bytes in files that are carried of one mount, unless ghost_limit is higher."""
_FILESYSTEMS = ("tmpfs", "proc")
"""What can be made anew."""
_DELETED = "//deleted"
"""What the kernel puts behind the root of a mount that was removed."""


class MountsDump:
    """The mount namespace of a tree on its way into the images. A context manager."""

    def __init__(self, options: DumpOptions) -> None:
        self._options = options
        self._records: list[Record] = []
        self._archives: dict[str, int] = {}

    def __enter__(self) -> MountsDump:
        return self

    def __exit__(self, *_: object) -> None:
        while self._archives:
            os.close(self._archives.popitem()[1])

    def obstacles(self, pids: Sequence[int]) -> list[Obstacle]:
        """Return what keeps the namespace of PIDS from being made again. Touches nothing."""
        return self._look(pids, keep=False)

    def collect(self, pids: Sequence[int]) -> None:
        """Take the mounts and the files that are carried; PIDS stand still. UnsupportedError when something cannot be carried."""
        obstacles = self._look(pids, keep=True)
        if obstacles:
            raise UnsupportedError(obstacles)

    def ids(self) -> Mapping[str, int]:
        """Return the ids of namespaces that are not ours, by their fields in task_kobj_ids_entry; after `collect`."""
        return {"mnt_ns_id": NAMESPACE_ID} if self._records else {}

    def write(self, images: ImagesDir) -> None:
        """Write the images; the tree may run by now. Raises ImagesError."""
        if self._records:
            images.write(f"mountpoints-{NAMESPACE_ID}", map(to_entry, self._records))
        for name, archive in self._archives.items():
            content.write(archive, os.path.join(images.path, name))

    def _look(self, pids: Sequence[int], keep: bool) -> list[Obstacle]:
        try:
            found = namespaces_of(pids, "mnt")
            if len(found) > 1:
                why = "processes or threads of the tree have different ones"
                return [Obstacle(pid, "mount namespace", why, "dump each part by itself") for pid in list(found.values())[1:]]
            if not found or is_ours(pids[0]):
                return []
            with inside_of(pids[0]) as inside:
                return list(self._compare(pids[0], inside, keep))
        except procfs.GONE as error:
            raise TargetError(f"process {pids[0]} has ended; name one that runs") from error
        except OSError as error:
            raise KernelError(f"the mounts of process {pids[0]} cannot be examined ({error}); run as root") from error

    def _compare(self, pid: int, inside: Inside, keep: bool) -> Iterator[Obstacle]:
        theirs, ours = Tree(mounts(inside.proc("mountinfo"))), Tree(mounts())
        if not alike(theirs.root, ours.root):
            why = "its root is not that of the engine's: it is a container's, or has a RootDirectory= or RootImage="
            yield Obstacle(pid, "mount namespace", why, "run the engine inside it (nsenter)")
            return
        records = _Records(theirs, ours).take()
        for record in records:
            yield from _check(pid, record)
            if record.content:
                yield from self._take(pid, record, inside, keep)
        if not inside.run(os.path.exists, "/proc/self/fd"):
            yield Obstacle(pid, "mount namespace", "it has no /proc, which a restore works by", "run the service with /proc")
        if keep:
            self._records = records

    def _take(self, pid: int, record: Record, inside: Inside, keep: bool) -> Iterator[Obstacle]:
        place = record.mount.place
        if inside.run(mount_at, place) != record.mount.id:
            yield Obstacle(pid, record.where, "another mount hides its files, which are to be carried", "run the service without the other")
            return
        root = inside.run(content.open_mount, place)
        try:
            limit, size = max(CONTENT_LIMIT, self._options.ghost_limit), inside.run(content.weigh, root)
            if size > limit:
                yield Obstacle(pid, record.where, f"its files have {size} bytes, more than {limit}", "raise ghost_limit, or remove files")
            elif keep:
                self._archives[record.content] = inside.run(content.pack, root)
        finally:
            os.close(root)


class _Records:
    """Finds out where each mount of a namespace came from."""

    def __init__(self, theirs: Tree, ours: Tree) -> None:
        self._theirs = theirs
        self._ours = ours
        self._devices = {mount.device for mount in ours.by_id.values()}
        self._new: set[int] = set()

    def take(self) -> list[Record]:
        """Return the record of each mount, in an order in which they can be mounted; an unknown origin is empty."""
        difference = compare(self._theirs, self._ours)
        removed = tuple(mount.place for mount in difference.removed)
        found = []
        for mount in self._theirs.all():
            if mount.id in difference.alike:
                found.append(Record(mount, INHERITED, removed=removed if mount is self._theirs.root else ()))
            elif mount.device in self._devices:
                found.append(self._bind(mount))
            else:
                found.append(self._own(mount))
        return found

    def _bind(self, mount: Mount) -> Record:
        paths = sorted(self._paths(mount), key=lambda path: path != mount.place)
        if not paths:
            return Record(mount, "")
        path = paths[0]
        whole = any(one.place == path for one in self._ours.by_id.values())
        if mount.place not in PRIVATE_DIRECTORIES or path == mount.place or not os.path.isdir(path):
            return Record(mount, BIND, path, whole)
        above = os.lstat(os.path.dirname(path))
        parent = Directory(above.st_mode & 0o7777, above.st_uid, above.st_gid)
        return Record(mount, BIND, path, whole, (parent,), f"tmpfs-{mount.id}.tar.gz.img")

    def _paths(self, mount: Mount) -> Iterator[str]:
        """Yield the paths of ours that lead to what MOUNT shows."""
        for one in self._ours.by_id.values():
            root = one.root.rstrip("/")
            if one.device == mount.device and (mount.root + "/").startswith(root + "/"):
                path = os.path.normpath(one.place + "/" + mount.root[len(root) :]).replace("//", "/")
                if _is_on(path, one.id):
                    yield path

    def _own(self, mount: Mount) -> Record:
        if mount.device in self._new:
            return Record(mount, PART, mount.root)
        whole = (one for one in self._theirs.all() if one.device == mount.device and one.root == "/")
        if next(whole, None) is None or mount.fstype not in _FILESYSTEMS:
            return Record(mount, "")
        if mount.root != "/":
            return Record(mount, PART, mount.root)
        self._new.add(mount.device)
        return Record(mount, NEW, content=f"tmpfs-dev-{kernel_device(mount.device)}.tar.gz.img" if mount.fstype == "tmpfs" else "")


def _is_on(path: str, mount: int) -> bool:
    try:
        return mount_at(path) == mount
    except OSError:
        return False


def _check(pid: int, record: Record) -> Iterator[Obstacle]:
    """Return what keeps the mount of RECORD from being made again."""
    mount = record.mount
    if mount.root.endswith(_DELETED):
        yield Obstacle(pid, record.where, "what it shows was removed", "restart the service")
    elif not record.origin and mount.fstype in _FILESYSTEMS:
        yield Obstacle(pid, record.where, "what it shows is hidden from the engine", "run the service without this mount")
    elif not record.origin:
        why = f"a filesystem ({mount.fstype}) that the engine's namespace does not have, or hides"
        yield Obstacle(pid, record.where, why, "run the service without this mount")
    elif record.origin != INHERITED and "idmapped" in mount.options:
        yield Obstacle(pid, record.where, "an idmapped mount, which is not carried", "run the service without it")
    try:
        "".join((mount.place, mount.root, record.path, mount.source, *mount.super_options)).encode()
    except UnicodeEncodeError:
        yield Obstacle(pid, record.where, "its path is not UTF-8, which the images cannot hold", "rename it")
