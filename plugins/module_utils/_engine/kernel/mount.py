# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System calls on mounts and mount namespaces: open_tree(2), move_mount(2), fsopen(2), mount_setattr(2), setns(2).

Numbers: include/uapi/linux/mount.h, fcntl.h, sched.h. All are in Linux 5.12.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import Iterable, Mapping

from .clone import CLONE_FS, CLONE_NEWNS
from .syscall import syscall

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH = 0x100, 0x800, 0x1000
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
MS_REC, MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 0x4000, 1 << 17, 1 << 18, 1 << 19, 1 << 20
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE, FSCONFIG_CMD_RECONFIGURE = 0, 1, 6, 7
MOUNT_ATTR__ATIME, MOUNT_ATTR_STRICTATIME = 0x70, 0x20
MOUNT_ATTR_NOATIME = 0x10
STATX_MNT_ID = 0x1000
"""Linux 5.8."""
_STATX_SIZE, _STX_MNT_ID = 256, 144
"""The size of struct statx and where stx_mnt_id is in it (include/uapi/linux/stat.h)."""
_NO_PARAMETERS = ("", "rw", "ro", "seclabel")
"""What mountinfo shows among the options of a filesystem, and none takes so: "ro" is set when it is filled."""
_MOUNT_ATTR = struct.Struct("=4Q")
"""struct mount_attr: set, clear, propagation, descriptor of a user namespace."""

ATTRIBUTES: Mapping[str, int] = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "noatime": MOUNT_ATTR_NOATIME,
    "nodiratime": 0x80,
    "nosymfollow": 0x200000,
}
"""MOUNT_ATTR_… by their names in mountinfo. "relatime" is no bit; without it and "noatime" it is MOUNT_ATTR_STRICTATIME."""
_ALL = sum(ATTRIBUTES.values()) | MOUNT_ATTR__ATIME


def attributes(options: Iterable[str]) -> int:
    """Return the MOUNT_ATTR_… of a mount whose options in mountinfo are OPTIONS."""
    names = set(options)
    strict = 0 if names & {"noatime", "relatime"} else MOUNT_ATTR_STRICTATIME
    return sum(bit for name, bit in ATTRIBUTES.items() if name in names) | strict


def open_tree(path: str, follow: bool = False) -> int:
    """Return a descriptor of a new mount, mounted nowhere, of what PATH leads to. Raises OSError."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_NO_AUTOMOUNT | (0 if follow else AT_SYMLINK_NOFOLLOW)
    return syscall("open_tree", AT_FDCWD, os.fsencode(path) + b"\0", flags)


def move_mount(mount: int, place: int) -> None:
    """Mount MOUNT, a descriptor of a mount that is mounted nowhere, at PLACE, a descriptor of a path. Raises OSError."""
    syscall("move_mount", mount, b"\0", place, b"\0", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def set_attributes(mount: int, attrs: int) -> None:
    """Give the mount of descriptor MOUNT the MOUNT_ATTR_… of ATTRS and no others. Raises OSError."""
    _setattr(mount, _MOUNT_ATTR.pack(attrs, _ALL, 0, 0))


def set_propagation(mount: int, kind: int) -> None:
    """Give the mount of descriptor MOUNT the propagation KIND: MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE. Raises OSError."""
    _setattr(mount, _MOUNT_ATTR.pack(0, 0, kind, 0))


def _setattr(mount: int, attr: bytes) -> None:
    syscall("mount_setattr", mount, b"\0", AT_EMPTY_PATH, attr, len(attr))


class Filesystem:
    """A filesystem being made, and mounted nowhere: a context manager."""

    def __init__(self, fstype: str, source: str, options: Iterable[str]) -> None:
        """OPTIONS: as mountinfo has those of the filesystem."""
        self._fstype = fstype
        self._source = source
        self._options = [option for option in options if option not in _NO_PARAMETERS]
        self._read_only = "ro" in options
        self._context = -1

    def __enter__(self) -> Filesystem:
        self._context = syscall("fsopen", self._fstype.encode() + b"\0", FSOPEN_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._context)

    def mount(self) -> int:
        """Make it, writable, and return a descriptor of its mount. Raises OSError."""
        for option in (f"source={self._source}", *self._options):
            name, equals, value = option.partition("=")
            if equals:
                self._configure(FSCONFIG_SET_STRING, name, value)
            else:
                self._configure(FSCONFIG_SET_FLAG, name)
        syscall("fsconfig", self._context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        return syscall("fsmount", self._context, FSMOUNT_CLOEXEC, 0)

    def settle(self) -> None:
        """Make it read-only, now that it is filled, if that is one of its options. Raises OSError."""
        if self._read_only:
            self._configure(FSCONFIG_SET_FLAG, "ro")
            syscall("fsconfig", self._context, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)

    def _configure(self, command: int, name: str, value: str = "") -> None:
        words = (os.fsencode(name) + b"\0", os.fsencode(value) + b"\0" if value or command == FSCONFIG_SET_STRING else 0)
        syscall("fsconfig", self._context, command, *words, 0)


def new_namespace() -> None:
    """Give the calling thread a copy of its mount namespace that tells no other of its mounts. Raises OSError."""
    syscall("unshare", CLONE_NEWNS)
    syscall("mount", b"none\0", b"/\0", 0, MS_REC | MS_SLAVE, 0)


def enter_namespace(namespace: int) -> None:
    """Let the calling thread enter a mount namespace, by a descriptor of it. Raises OSError."""
    syscall("unshare", CLONE_FS)
    syscall("setns", namespace, CLONE_NEWNS)


def unmount(path: str) -> None:
    """Take away what is mounted at PATH, and what is mounted below. Raises OSError."""
    syscall("umount2", os.fsencode(path) + b"\0", MNT_DETACH | UMOUNT_NOFOLLOW)


def mount_id(fd: int) -> int:
    """Return the number, in mountinfo, of the mount that our descriptor FD is on. Raises OSError."""
    found = ctypes.create_string_buffer(_STATX_SIZE)
    syscall("statx", fd, b"\0", AT_EMPTY_PATH, STATX_MNT_ID, found)  # fdinfo tells it too, where there is a /proc
    return int.from_bytes(found.raw[_STX_MNT_ID : _STX_MNT_ID + 8], sys.byteorder)


def mount_at(path: str, dir_fd: int | None = None) -> int:
    """Return the number of the mount that PATH leads to, without following it. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return mount_id(fd)
    finally:
        os.close(fd)
