# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A view of all files in which nothing that is written reaches them: overlays on a tmpfs, in a mount namespace of our own.

Filesystems of the kernel's own (sysfs, control groups …) are read-only in it, those that belong to a namespace are new ones.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ...errors import KernelError
from ...kernel.mount import (
    ATTRIBUTES,
    MNT_DETACH,
    Filesystem,
    attributes,
    mount_at,
    mount_id,
    move_mount,
    new_namespace,
    open_tree,
    set_attributes,
)
from ...kernel.mountinfo import Mount, mounts
from ...kernel.syscall import syscall

_NEW = {"proc": (), "mqueue": (), "devpts": ("mode=620", "ptmxmode=666", "gid=5")}
"""What each namespace has its own of, with its options."""
_OF_THE_KERNEL = frozenset(
    "sysfs cgroup cgroup2 securityfs debugfs tracefs bpf pstore configfs efivarfs fusectl hugetlbfs binfmt_misc selinuxfs smackfs".split()
)
_LEFT_OUT = ("autofs", "nsfs", "rpc_pipefs")
_PLACES = ("/tmp", "/run", "/mnt", "/var", "/home")
"""Where a tmpfs can stand until the view is made: one that is there on any machine."""


class _Seen(NamedTuple):
    """A mount of ours that can be seen, and our descriptor of its root."""

    mount: Mount
    fd: int


def enter() -> None:
    """Let the calling process, in a PID namespace of its own, see all files so. Raises KernelError; then it is to end."""
    try:
        new_namespace()
        seen = _visible()
        place = next(path for path in _PLACES if os.path.isdir(path))
        with Filesystem("tmpfs", "stillframe", ("mode=700",)) as writable:
            _attach(writable.mount(), place)
        root = os.path.join(place, "root")
        for name in ("root", "upper", "work"):
            os.mkdir(os.path.join(place, name))
        for number, one in enumerate(seen):
            _show(one, number, place, root + one.mount.place.rstrip("/"))
            os.close(one.fd)
        os.chdir(root)
        syscall("pivot_root", b".\0", b".\0")
        syscall("umount2", b".\0", MNT_DETACH)
        os.chdir("/")
    except (OSError, StopIteration) as error:
        raise KernelError(f"no private view of the files can be made ({error}); run as root, on a kernel with overlayfs") from error


def _visible() -> Sequence[_Seen]:
    """Return the mounts that no other hides, parents first."""
    found: dict[str, _Seen] = {}
    listed = mounts()
    for mount in sorted(listed, key=lambda one: one.place.count("/") if one.place != "/" else 0):
        if mount.fstype in _LEFT_OUT:
            continue
        with suppress(OSError):
            if mount_at(mount.place) == mount.id:
                found[mount.place] = _Seen(mount, os.open(mount.place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    hidden = [one for one in found.values() if mount_id(one.fd) != one.mount.id]
    return [one for one in found.values() if one not in hidden]


def _show(one: _Seen, number: int, place: str, target: str) -> None:
    """Mount at TARGET what is to be seen of ONE; what changes goes to the tmpfs at PLACE."""
    mount, here = one.mount, f"/proc/self/fd/{one.fd}"
    options = attributes(mount.options)
    if mount.fstype in _NEW:
        with Filesystem(mount.fstype, mount.fstype, _NEW[mount.fstype]) as filesystem:
            _attach(filesystem.mount(), target)
    elif mount.fstype in _OF_THE_KERNEL or not stat.S_ISDIR(os.fstat(one.fd).st_mode):
        _bind_read_only(here, target, options)
    else:
        upper, work = (os.path.join(place, name, str(number)) for name in ("upper", "work"))
        there = os.fstat(one.fd)
        os.mkdir(upper)
        os.chown(upper, there.st_uid, there.st_gid)
        os.chmod(upper, there.st_mode & 0o7777)
        os.mkdir(work)
        try:
            with Filesystem("overlay", "overlay", (f"lowerdir={here}", f"upperdir={upper}", f"workdir={work}")) as overlay:
                made = overlay.mount()
        except OSError:
            if mount.place == "/":
                raise
            _bind_read_only(here, target, options)  # a filesystem that no overlay can stand on
            return
        set_attributes(made, options)
        _attach(made, target)


def _bind_read_only(path: str, target: str, options: int) -> None:
    made = open_tree(path, follow=True)
    set_attributes(made, options | ATTRIBUTES["ro"])
    _attach(made, target)


def _attach(mount: int, target: str) -> None:
    """Mount MOUNT, our descriptor of it, at TARGET, and close it."""
    place = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        move_mount(mount, place)
    finally:
        os.close(place)
        os.close(mount)
