# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches of files and directories (inotify(7)), under the same watch descriptors. Events that were not read are lost, with a warning.

images: files.img (inotify_file_entry with one inotify_wd_entry a watch: number, mask, file).
"""

from __future__ import annotations

import array
import fcntl
import os
import termios
from collections.abc import Iterable, Iterator, Mapping

from ...errors import Obstacle, RestoreError
from ...images.schema import message
from ...kernel.fsnotify import Mark, parse
from ...kernel.syscall import syscall
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext
from .status import set_flags
from .watched import Paths, Targets, handle_entry, is_ghost

INOTIFY_IOC_SETNEXTWD = 0x40044900
"""_IOW('I', 0, __s32) of linux/inotify.h (Linux 4.16, CONFIG_CHECKPOINT_RESTORE)."""
IN_ALL_EVENTS = 0xFFF
IN_EXCL_UNLINK = 0x04000000
IN_ONESHOT = 0x80000000
_MASK = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT


def is_inotify(file: OpenFile) -> bool:
    """Tell whether FILE is an inotify instance."""
    return file.link == "anon_inode:inotify"


def unread(local: int) -> int:
    """Return how many bytes of events wait to be read (FIONREAD)."""
    count = array.array("i", [0])
    fcntl.ioctl(local, termios.FIONREAD, count)
    return count[0]


def discard(local: int) -> None:
    """Read all events that wait."""
    while waiting := unread(local):
        os.read(local, waiting)


def no_path(file: OpenFile, context: DumpContext, paths: Paths, mark: Mark) -> Iterable[Obstacle]:
    """Return what keeps MARK of FILE from being set again: a file that no path leads to and that is not carried."""
    handle = mark.handle
    if handle is None:
        yield file.obstacle("it watches a file of a filesystem that gives no handles, so it cannot be found", "have the program close it")
    elif not is_ghost(context, handle.device, handle.inode) and not paths.find(handle):
        why = f"no path is known to the file that it watches (device {handle.device >> 20}:{handle.device & 0xFFFFF}, inode {handle.inode})"
        yield file.obstacle(why, "look at that file by its path once (find -inum), or have the program watch it anew")


class InotifyDump(KindDump):
    """Dumps inotify instances."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._paths = Paths(context)

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Return the watches of what cannot be found again."""
        for mark in map(parse, file.info.marks):
            yield from no_path(file, self.context, self._paths, mark)

    def collect(self, description: Description) -> Entry:
        """Return the inotify_file_entry."""
        file = description.file
        entry = message("inotify_file_entry")(id=description.file_id, flags=file.flags, fown=description.fown)
        for mark in map(parse, file.info.marks):
            if mark.handle is not None:
                values, handle = mark.values, mark.handle
                ghost = is_ghost(self.context, handle.device, handle.inode)
                watch = entry.wd.add(id=description.file_id, i_ino=handle.inode, s_dev=handle.device)
                watch.wd, watch.mask, watch.ignored_mask = values["wd"], values["mask"], values["ignored_mask"]
                watch.f_handle.CopyFrom(handle_entry(handle, "" if ghost else self._paths.find(handle)))
        if unread(file.local):
            self.context.warn(f"process {file.pid}, {file.where}: events of inotify that it has not read are not in the dump")
        return entry


class InotifyRestore(KindRestore):
    """Makes inotify instances and their watches, when all other files are open."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._targets = Targets(context)
        self._made: list[int] = []

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Return what is watched and is not there."""
        for file_id, entry in entries.items():
            for watch in entry.wd:
                why = self._targets.missing(watch.s_dev, watch.i_ino, watch.f_handle)
                if why:
                    yield Obstacle(0, f"inotify instance {file_id} ({self.context.holder(file_id)})", why, "put it back")

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            local = found[file_id] = self.context.keep(syscall("inotify_init1", os.O_CLOEXEC))
            self._made.append(local)
            for watch in sorted(entry.wd, key=lambda one: int(one.wd)):
                self._add(local, watch)
            set_flags(local, entry.flags)
        return found

    def settle(self) -> None:
        """Discard the events that the restore itself has caused."""
        for local in self._made:
            discard(local)

    def _add(self, local: int, watch: Entry) -> None:
        target = self._targets.open(watch.s_dev, watch.i_ino, watch.f_handle)
        try:
            syscall("ioctl", local, INOTIFY_IOC_SETNEXTWD, watch.wd)
            number = syscall("inotify_add_watch", local, f"/proc/self/fd/{target}\0".encode(), watch.mask & _MASK)
        finally:
            os.close(target)
        if number != watch.wd:
            raise RestoreError(f"watch {watch.wd} of {watch.f_handle.path} has become {number}; restore on the kernel of the dump")


INOTIFIES = Kind("INOTIFY", "ify", is_inotify, InotifyDump, InotifyRestore)
