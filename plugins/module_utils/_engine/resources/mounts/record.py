# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""One mount of a tree's namespace, as it is known to a dump, to the images and to a restore.

images: mountpoints-ID (mnt_entry of CRIU's mnt.proto; where it came from in a field of our own).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ...images.schema import enum, message
from ...kernel.mount import MS_PRIVATE, MS_UNBINDABLE
from ...kernel.mountinfo import Mount

INHERITED = "inherited"
"""The caller's namespace has it too."""
BIND = "bind"
"""It shows a path of the caller's namespace."""
NEW = "new"
"""A filesystem of its own."""
PART = "part"
"""It shows a path of one that is NEW."""

_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "nosymfollow": 256, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
"""MS_… of include/uapi/linux/mount.h by their names in mountinfo."""


@dataclass(frozen=True)
class Directory:
    """Owner and mode of a directory."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Record:
    """A mount and where it came from."""

    mount: Mount
    origin: str
    """INHERITED, BIND, NEW or PART."""
    path: str = ""
    """What it shows: of a BIND the path in the caller's namespace, of a PART that in the filesystem."""
    whole: bool = False
    """Of a BIND: a mount of the caller's is at that path."""
    parents: tuple[Directory, ...] = ()
    """Of a BIND whose content is carried: the directory above its path."""
    content: str = ""
    """The name of the image with its content, empty when that is not carried."""
    removed: tuple[str, ...] = ()
    """Of the root: where the caller's namespace has mounts that this one has not."""

    @property
    def where(self) -> str:
        """The mount as a person would name it."""
        return f"mount {self.mount.place}"


def kernel_device(device: int) -> int:
    """Return DEVICE as the kernel numbers it, and CRIU's images."""
    return os.major(device) << 20 | os.minor(device)


def to_entry(record: Record) -> Any:
    """Return the mnt_entry of RECORD."""
    mount, types = record.mount, enum("fstype")
    flags = sum(bit for name, bit in _FLAGS.items() if name in mount.options)
    entry = message("mnt_entry")(
        fstype=types.get(mount.fstype.upper(), types["AUTO"]),
        mnt_id=mount.id,
        root_dev=kernel_device(mount.device),
        parent_mnt_id=mount.parent,
        flags=flags | (MS_UNBINDABLE | MS_PRIVATE if mount.unbindable else 0),
        root=mount.root,
        mountpoint=mount.place,
        source=mount.source,
        options=",".join(mount.super_options),
    )
    if entry.fstype == types["AUTO"]:
        entry.fsname = mount.fstype
    if mount.shared:
        entry.shared_id = mount.shared
    if mount.master:
        entry.master_id = mount.master
    own = entry.stillframe
    own.origin, own.path, own.whole, own.content = record.origin, record.path, record.whole, record.content
    own.removed.extend(record.removed)
    for parent in record.parents:
        own.parents.add(mode=parent.mode, uid=parent.uid, gid=parent.gid)
    return entry


def from_entry(entry: Any) -> Record:
    """Return what ENTRY, a mnt_entry with our field, tells."""
    own, major, minor = entry.stillframe, entry.root_dev >> 20, entry.root_dev & (1 << 20) - 1
    mount = Mount(
        id=entry.mnt_id,
        parent=entry.parent_mnt_id,
        device=os.makedev(major, minor),
        root=entry.root,
        place=entry.mountpoint,
        options=frozenset(name for name, bit in _FLAGS.items() if entry.flags & bit),
        shared=entry.shared_id,
        master=entry.master_id,
        unbindable=bool(entry.flags & MS_UNBINDABLE),
        fstype=entry.fsname or next(name.lower() for name, number in enum("fstype").items() if number == entry.fstype),
        source=entry.source,
        super_options=tuple(entry.options.split(",")),
    )
    parents = tuple(Directory(parent.mode, parent.uid, parent.gid) for parent in own.parents)
    return Record(mount, own.origin, own.path, own.whole, parents, own.content, tuple(own.removed))
