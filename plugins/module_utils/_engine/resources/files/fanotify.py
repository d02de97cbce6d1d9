# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches of files and mounts (fanotify(7)) that only tell. Events that were not read are lost, with a warning.

images: files.img (fanotify_file_entry with one fanotify_mark_entry a mark: masks, file or mount).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping

from ...errors import Obstacle
from ...images.schema import enum, message
from ...kernel.fsnotify import Mark, mount_point, parse
from ...kernel.syscall import syscall
from .inotify import no_path, unread
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext
from .status import set_flags
from .watched import Paths, Targets, handle_entry, is_ghost

# include/uapi/linux/fanotify.h
FAN_CLASSES = 0xC
"""FAN_CLASS_CONTENT and FAN_CLASS_PRE_CONTENT: whoever opens a file waits for the answer."""
FAN_MARK_ADD, FAN_MARK_MOUNT, FAN_MARK_IGNORED_MASK, FAN_MARK_IGNORE = 0x1, 0x10, 0x20, 0x400
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")
"""struct fanotify_event_metadata: length, version, reserved, length of this head, mask, descriptor, process."""
_BUFFER = 1 << 16
_CLOSE = "have the program close it before the dump"


def is_fanotify(file: OpenFile) -> bool:
    """Tell whether FILE is a fanotify instance."""
    return file.link == "anon_inode:[fanotify]"


def _split(file: OpenFile) -> tuple[Mark, list[Mark]]:
    """Return the line of the instance itself (flags, event-flags) and its marks."""
    head, *marks = map(parse, file.info.marks)
    return head, marks


class FanotifyDump(KindDump):
    """Dumps fanotify instances."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._paths = Paths(context)

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse instances that decide on accesses, marks of whole filesystems, and what cannot be found again."""
        head, marks = _split(file)
        if head.values["flags"] & FAN_CLASSES:
            yield file.obstacle("a fanotify instance that decides on accesses, for which others would wait while it is stopped", _CLOSE)
        for mark in marks:
            if "mnt_id" in mark.values:
                try:
                    mount_point(mark.values["mnt_id"])
                except KeyError:
                    yield file.obstacle("it watches a mount that is not in the engine's mount namespace", _CLOSE)
            elif "ino" in mark.values:
                yield from no_path(file, self.context, self._paths, mark)
            else:
                yield file.obstacle("it watches a whole filesystem, which the images cannot hold", _CLOSE)

    def collect(self, description: Description) -> Entry:
        """Return the fanotify_file_entry."""
        file = description.file
        head, marks = _split(file)
        entry = message("fanotify_file_entry")(id=description.file_id, flags=file.flags, fown=description.fown)
        entry.faflags, entry.evflags = head.values["flags"], head.values["event-flags"]
        for mark in marks:
            self._add(entry, mark)
        if unread(file.local):
            self.context.warn(f"process {file.pid}, {file.where}: events of fanotify that it has not read are not in the dump")
        return entry

    def _add(self, entry: Entry, mark: Mark) -> None:
        values, handle, kinds = mark.values, mark.handle, enum("mark_type")
        added = entry.mark.add(id=entry.id, type=kinds["INODE" if handle else "MOUNT"], mflags=values["mflags"])
        added.mask, added.ignored_mask = values["mask"], values["ignored_mask"]
        if handle is not None:
            ghost = is_ghost(self.context, handle.device, handle.inode)
            added.s_dev, added.ie.i_ino = handle.device, handle.inode
            added.ie.f_handle.CopyFrom(handle_entry(handle, "" if ghost else self._paths.find(handle)))
        else:
            added.me.mnt_id = values["mnt_id"]
            added.me.path, added.s_dev = mount_point(values["mnt_id"])


class FanotifyRestore(KindRestore):
    """Makes fanotify instances and their marks, when all other files are open."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._targets = Targets(context)
        self._made: list[int] = []

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Return what is watched and is not there."""
        for file_id, entry in entries.items():
            where = f"fanotify instance {file_id} ({self.context.holder(file_id)})"
            for mark in entry.mark:
                if mark.HasField("ie"):
                    why = self._targets.missing(mark.s_dev, mark.ie.i_ino, mark.ie.f_handle)
                elif mark.me.HasField("path"):
                    why = "" if os.path.ismount(mark.me.path) else f"nothing is mounted on {mark.me.path}, which is watched"
                else:
                    why = f"it watches mount {mark.me.mnt_id} of a mount namespace of its own"
                if why:
                    yield Obstacle(0, where, why, "put it back")

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            local = self.context.keep(syscall("fanotify_init", entry.faflags, entry.evflags))
            found[file_id] = local
            self._made.append(local)
            for mark in entry.mark:
                self._add(local, mark)
            set_flags(local, entry.flags)
        return found

    def settle(self) -> None:
        """Discard the events that the restore itself has caused."""
        for local in self._made:
            while unread(local):
                _close_files(os.read(local, _BUFFER))

    def _add(self, local: int, mark: Entry) -> None:
        if mark.HasField("ie"):
            target, how = self._targets.open(mark.s_dev, mark.ie.i_ino, mark.ie.f_handle), FAN_MARK_ADD
        else:
            target, how = os.open(mark.me.path, os.O_PATH | os.O_CLOEXEC), FAN_MARK_ADD | FAN_MARK_MOUNT
        try:
            path = f"/proc/self/fd/{target}\0".encode()
            if mark.mask:
                syscall("fanotify_mark", local, how | mark.mflags & ~FAN_MARK_IGNORE, mark.mask, _AT_FDCWD, path)
            if mark.ignored_mask:
                ignoring = mark.mflags if mark.mflags & FAN_MARK_IGNORE else mark.mflags | FAN_MARK_IGNORED_MASK
                syscall("fanotify_mark", local, how | ignoring, mark.ignored_mask, _AT_FDCWD, path)
        finally:
            os.close(target)


def _close_files(events: bytes) -> None:
    """Close the descriptors that came with EVENTS."""
    at = 0
    while at < len(events):
        length, *_rest, fd, _pid = _EVENT.unpack_from(events, at)
        if fd >= 0:
            os.close(fd)
        at += length


FANOTIFIES = Kind("FANOTIFY", "ffy", is_fanotify, FanotifyDump, FanotifyRestore)
