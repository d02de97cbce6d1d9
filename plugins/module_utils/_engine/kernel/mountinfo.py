# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""/proc/PID/mountinfo (proc_pid_mountinfo(5)): the mounts of a namespace."""

from __future__ import annotations

import os
import re
from typing import FrozenSet, List, NamedTuple, Tuple

_ESCAPED = re.compile(rb"\\([0-7]{3})")


class Mount(NamedTuple):
    """A line of mountinfo."""

    id: int
    parent: int
    device: int
    """As st_dev has it, but for filesystems, such as btrfs, that give their files others."""
    root: str
    """The path in the filesystem that is mounted."""
    place: str
    """Where it is mounted."""
    options: FrozenSet[str]
    """Of this mount: ro, nosuid, relatime …"""
    shared: int
    """Its peer group, 0 when it has none."""
    master: int
    """The peer group that it takes mounts from, 0 when there is none."""
    unbindable: bool
    fstype: str
    source: str
    super_options: Tuple[str, ...]
    """Of the filesystem."""


def mounts(path: str = "/proc/self/mountinfo") -> List[Mount]:
    """Return the mounts that PATH lists. Raises OSError."""
    with open(path, "rb") as file:
        return [_mount(line) for line in file.read().split(b"\n")[:-1]]  # names hold carriage returns as they are


def _mount(line: bytes) -> Mount:
    head, _dash, tail = line.partition(b" - ")
    number, parent, device, root, place, options, *optional = head.split(b" ")
    fstype, source, super_options = (_text(word) for word in tail.split(b" ", 2))
    major, minor = (int(word) for word in device.split(b":"))
    groups = dict(_text(word).partition(":")[::2] for word in optional)
    return Mount(
        id=int(number),
        parent=int(parent),
        device=os.makedev(major, minor),
        root=_text(root),
        place=_text(place),
        options=frozenset(_text(options).split(",")),
        shared=int(groups.get("shared", "0")),
        master=int(groups.get("master", "0")),
        unbindable="unbindable" in groups,
        fstype=fstype,
        source=source,
        super_options=tuple(super_options.split(",")),
    )


def _text(word: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), word))
