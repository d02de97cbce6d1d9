# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of the namespaces that a tree is in itself (/proc/PID/ns; namespaces(7)), which are those of the engine.

images: files.img (ns_file_entry: the namespace by its id and its CLONE_NEW… flag).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ...errors import Obstacle
from ...images.schema import message
from ..inventory import namespace_ids
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile
from .status import for_open

CLONE_FLAGS = {
    "time": 0x00000080,
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
"""linux/sched.h, by the names in /proc/PID/ns."""


def is_namespace(file: OpenFile) -> bool:
    """Tell whether FILE is a namespace, opened in /proc."""
    return _name(file) in CLONE_FLAGS


def _name(file: OpenFile) -> str:
    name, colon, _number = file.link.partition(":[")
    return name if colon else ""


class NamespaceDump(KindDump):
    """Dumps descriptors of namespaces."""

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse those that the tree is not in, and a mount namespace of the tree's own, which is another one after a restore."""
        name = _name(file)
        if os.stat(f"/proc/self/ns/{name}").st_ino != file.stat.st_ino:
            yield file.obstacle(f"a {name} namespace that is not that of the engine", "have the program close it before the dump")

    def collect(self, description: Description) -> Entry:
        """Return the ns_file_entry."""
        name = _name(description.file)
        number = namespace_ids()[f"{name}_ns_id"]
        return message("ns_file_entry")(id=description.file_id, ns_id=number, ns_cflag=CLONE_FLAGS[name], flags=description.file.flags)


class NamespaceRestore(KindRestore):
    """Opens the namespaces that we are in, as the tree will be."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse kinds of namespaces that are not known here."""
        for file_id, entry in entries.items():
            if not os.path.exists(_path(entry)):
                where = f"namespace {entry.ns_id} ({self.context.holder(file_id)})"
                yield Obstacle(0, where, f"this kernel has no namespaces of its kind ({entry.ns_cflag:#x})", "restore it on another kernel")

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Open all of them."""
        return {file_id: self.context.keep(os.open(_path(entry), for_open(entry.flags))) for file_id, entry in entries.items()}


def _path(entry: Entry) -> str:
    name = next((name for name, flag in CLONE_FLAGS.items() if flag == entry.ns_cflag), "unknown")
    return f"/proc/self/ns/{name}"


NAMESPACES = Kind("NS", "nsf", is_namespace, NamespaceDump, NamespaceRestore)
