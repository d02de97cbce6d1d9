# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files opened by path: regular files, directories and the memory devices such as /dev/null.

images: files.img (reg_file_entry: path, flags, offset, size, mode, build-id); unlinked ones through ghost.py.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from collections.abc import Iterator, Mapping, Sequence

from ...errors import Obstacle
from ...images.image import ImagesDir
from ...images.schema import enum, message
from ...kernel.filelocks import holds_lease
from ..mounts.view import OUR_OWN, TreeView
from .build_id import build_id, from_words, to_words
from .ghost import GhostsDump, GhostsRestore, obstacle
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext, Task
from .link_remap import LinksDump, LinksRestore, linked, may_link
from .procfs import ProcFilesRestore, process_of, why_not
from .status import for_open, open_again, set_flags

MEM_MAJOR = 1
MEM_MINORS = {3: "null", 5: "zero", 7: "full", 8: "random", 9: "urandom", 11: "kmsg"}
"""Memory devices without state of their own (Documentation/admin-guide/devices.txt)."""
DELETED = " (deleted)"
"""What the kernel puts behind the path of an unlinked file (proc(5))."""
NO_POS = (1 << 64) - 1

_SECRET = "/secretmem" + DELETED
"""Its inodes count a link (mm/secretmem.c)."""


def is_by_path(file: OpenFile) -> bool:
    """Tell whether FILE is opened by path and carried as such."""
    mode = file.stat.st_mode
    if stat.S_ISCHR(mode):
        return os.major(file.stat.st_rdev) == MEM_MAJOR and os.minor(file.stat.st_rdev) in MEM_MINORS
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        return False
    return file.link.startswith("/") and not _has_no_path(file)


def _has_no_path(file: OpenFile) -> bool:
    """Tell whether FILE is of a filesystem that is mounted nowhere: memfd, System V shared memory, huge pages."""
    names = ("/memfd:", "/SYSV", "/anon_hugepage", "/secretmem")
    return file.link.startswith(names) and file.stat.st_nlink == 0 or file.link == _SECRET


def plain_path(path: str, status: os.stat_result, view: TreeView = OUR_OWN, local: int = -1) -> str:
    """Return PATH, of the file of STATUS that our descriptor LOCAL has open, as it was before the file was unlinked."""
    return path[: -len(DELETED)] if path.endswith(DELETED) and not _leads_to(path, status, view, local) else path


def _leads_to(path: str, status: os.stat_result, view: TreeView, local: int) -> bool:
    try:
        found = view.lstat(path, local)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino)


@dataclass(frozen=True)
class FileFact:
    """A file that the dump refers to by path."""

    path: str
    size: int
    mtime_ns: int
    build_id: str
    """In hexadecimal, empty when it has none."""
    mode: int
    """st_mode: kind and permissions."""


def _is_log(flags: int) -> bool:
    """Tell whether a file opened so may have grown when it is opened again: what the task writes goes to its end in any case."""
    return bool(flags & os.O_APPEND) and flags & os.O_ACCMODE == os.O_WRONLY


class RegularDump(KindDump):
    """Files opened by path, and those that mappings and tasks refer to."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._ghosts = GhostsDump()
        self._links = LinksDump()
        self._entries: list[tuple[Entry, int, os.stat_result]] = []
        self.facts: list[FileFact] = []

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Return what keeps FILE from being opened again by its path."""
        local = file.local if self.context.view.foreign else -1  # our own view needs none
        path = plain_path(file.link, file.stat, self.context.view, local)
        if process_of(path):
            why = why_not(path, _leads_to(path, file.stat, self.context.view, local), self.context.pids())
            if why:
                yield file.obstacle(why, "have the program close it")
        else:
            yield from self.check_path(file.pid, file.where, file.link, file.stat, local)

    def check_path(self, pid: int, where: str, link: str, status: os.stat_result, local: int = -1) -> Iterator[Obstacle]:
        """Return what keeps the file of STATUS, ours as LOCAL, seen by the path LINK, from being opened again by it."""
        path = plain_path(link, status, self.context.view, local)
        if status.st_nlink == 0:
            found = obstacle(where, pid, status, self.context.options.ghost_limit)
            if found:
                yield found
        elif process_of(path) and _leads_to(path, status, self.context.view, local):
            yield Obstacle(pid, where, "a file of a process in /proc, which is gone when the tree is restored", "have the program close it")
        elif not process_of(path) and not _leads_to(path, status, self.context.view, local):
            possible = not self.context.view.foreign and may_link(path, status)
            if not (possible and self.context.options.link_remap):
                why = "its path no longer leads to it: it was renamed, replaced or mounted over, or lies in a third mount namespace"
                remedy = "have the program open it again by its present path"
                yield Obstacle(pid, where, why, f"use link_remap, or {remedy}" if possible else remedy)
        try:
            path.encode()
        except UnicodeEncodeError:
            yield Obstacle(pid, where, "its path is not UTF-8, which the images cannot hold", "rename it")

    def collect(self, description: Description) -> Entry:
        """Return the reg_file_entry of an open file."""
        file = description.file
        return self.entry(description.file_id, file.local, file.link, file.flags, file.info.pos, description.fown)

    def entry(self, file_id: int, local: int, link: str, flags: int, pos: int, fown: Entry) -> Entry:
        """Return the reg_file_entry of the file that our descriptor LOCAL has open, and keep its content if it is unlinked."""
        status = os.fstat(local)
        name = plain_path(link, status, self.context.view, local)
        entry = message("reg_file_entry")(id=file_id, flags=flags, pos=pos, fown=fown, name=name, mode=status.st_mode)
        if stat.S_ISREG(status.st_mode) and not _is_log(flags):
            entry.size = status.st_size
        if self.context.view.outside(local):
            entry.stillframe_outside = True
        leads = _leads_to(name, status, self.context.view, local)
        if process_of(name):
            if not leads:
                self._ghosts.remap(file_id, process_of(name), "PROCFS")
        elif status.st_nlink == 0:
            self._ghosts.add(local, status, file_id)
        elif not leads:
            self._ghosts.remap(file_id, self._links.add(self.context, local, name, status), "LINKED")
        self._entries.append((entry, os.dup(local), status))
        return entry

    def settle(self) -> None:
        """Add the build-ids to the entries; the tree may run by now."""
        leased = {(status.st_dev, status.st_ino) for _entry, local, status in self._entries if holds_lease(local)}
        for entry, local, status in self._entries:
            broken = (status.st_dev, status.st_ino) in leased  # by opening it
            found = b"" if broken else _build_id_of(local, status)
            entry.build_id.extend(to_words(found))
            if stat.S_ISREG(status.st_mode) and status.st_nlink and not process_of(entry.name):
                self.facts.append(FileFact(entry.name, status.st_size, status.st_mtime_ns, found.hex(), status.st_mode))
        self._drop()

    def write(self, images: ImagesDir) -> None:
        """Write the unlinked files."""
        self._ghosts.write(images)

    def commit(self) -> None:
        """Let the names that were made on disk be: the dump is complete and needs them."""
        self._links.keep()

    def close(self) -> None:
        """Drop our copies."""
        self._drop()
        self._ghosts.close()
        self._links.close()

    def _drop(self) -> None:
        while self._entries:
            os.close(self._entries.pop()[1])


def _build_id_of(local: int, status: os.stat_result) -> bytes:
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return b""
    try:
        fd = open_again(local)  # ours may be for writing only, or O_PATH
    except OSError:
        return b""
    try:
        return build_id(fd)
    finally:
        os.close(fd)


class RegularRestore(KindRestore):
    """Opens files by path."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._ghosts = GhostsRestore(context.images, context.undo)
        self._remaps: dict[int, int] = {}
        self._links = LinksRestore()
        self._ended: set[int] = set()
        self._of_processes = ProcFilesRestore(context, self._ended)

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Compare what is on this machine with what was dumped."""
        entries = self._without_terminals(entries)
        self._read_remaps(entries)
        yield from self._ghosts.check(self._remaps, {file_id: entries[file_id].name for file_id in self._remaps})
        for file_id, entry in entries.items():
            if self._is_of_process(entry):
                yield from self._of_processes.check(file_id, entry)
            elif file_id not in self._remaps and file_id not in self._links.names and entry.name not in self.context.put_back:
                yield from self._differences(file_id, entry)

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Open all, at their offsets; of FIFOs only the place (O_PATH), for their own kind."""
        entries = self._without_terminals(entries)
        found = self._of_processes.open(entries)
        for file_id in sorted(self._remaps, key=lambda one: (not stat.S_ISDIR(entries[one].mode), entries[one].name.count("/"))):
            self._ghosts.path(self._remaps[file_id], entries[file_id].name)  # a directory before what was in it
        for file_id, entry in entries.items():
            if self._is_of_process(entry) or entry.name in self._links.names.values():
                continue
            if stat.S_ISFIFO(entry.mode):
                found[file_id] = self.context.keep(self.open_path(file_id, entry, os.O_PATH))
            else:
                found[file_id] = self.context.keep(self.open_path(file_id, entry))
                _seek(found[file_id], entry)
        self._ghosts.unlink()
        return found

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Have TASK open its files in /proc."""
        self._of_processes.finish(task, entries)

    def settle(self) -> None:
        """End the processes that stood for those that had ended, and remove the names that were made for the images."""
        self._of_processes.settle()
        self._links.settle()

    def _without_terminals(self, entries: Mapping[int, Entry]) -> Mapping[int, Entry]:
        """Return ENTRIES but the paths of terminals, which their own kind opens."""
        terminals = {entry.regf_id for entry in self.context.entries_of("TTY").values()}
        return {file_id: entry for file_id, entry in entries.items() if file_id not in terminals}

    def _is_of_process(self, entry: Entry) -> bool:
        return self._of_processes.is_late(entry) or self._of_processes.is_ended(entry)

    def open_path(self, file_id: int, entry: Entry, flags: int | None = None) -> int:
        """Open the file of ENTRY with its flags, or with FLAGS."""
        wanted = for_open(entry.flags if flags is None else flags)
        if file_id in self._links.names:
            return self._links.open(file_id, entry.name, wanted)
        if file_id in self._remaps:
            return os.open(self._ghosts.path(self._remaps[file_id], entry.name), wanted)
        path, root = self.context.place(entry)
        return os.open(path, wanted, dir_fd=root)

    def _read_remaps(self, entries: Mapping[int, Entry]) -> None:
        kinds, images = enum("remap_type"), self.context.images
        remaps: Sequence[Entry] = images.read("remap-fpath") if images.has("remap-fpath") else []
        for remap in remaps:
            entry = entries.get(remap.orig_id)
            if entry is None:
                continue
            if remap.HasField("remap_type") and remap.remap_type == kinds["PROCFS"]:
                self._ended.add(remap.remap_id)
            elif remap.HasField("remap_type") and remap.remap_type == kinds["LINKED"]:
                self._links.names[remap.orig_id] = linked(images, entries, remap)
            else:
                self._remaps[remap.orig_id] = remap.remap_id

    def _differences(self, file_id: int, entry: Entry) -> Iterator[Obstacle]:
        if entry.ext:
            yield self._obstacle(file_id, entry, "an external file, which only CRIU's --external tells how to open", "restore it with CRIU")
            return
        try:
            path, root = self.context.place(entry)
            found = os.lstat(path, dir_fd=root)
        except OSError as error:
            yield self._obstacle(file_id, entry, f"it cannot be found ({error.strerror})", "put the file back")
            return
        if entry.HasField("mode") and found.st_mode != entry.mode:
            why = f"its mode is {found.st_mode:#o}, at the dump it was {entry.mode:#o}"
            yield self._obstacle(file_id, entry, why, "put the file back as it was")
        if entry.HasField("size") and stat.S_ISREG(found.st_mode) and found.st_size != entry.size:
            why = f"it has {found.st_size} bytes, at the dump it had {entry.size}"
            yield self._obstacle(file_id, entry, why, "put the file back as it was")
        elif self.context.options.file_validation == "buildid" and entry.build_id:
            yield from self._rebuilt(file_id, entry)

    def _rebuilt(self, file_id: int, entry: Entry) -> Iterator[Obstacle]:
        path, root = self.context.place(entry)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=root)
        try:
            found = to_words(build_id(fd))
        finally:
            os.close(fd)
        if found != list(entry.build_id):
            why = f"its build-id is {from_words(found).hex() or 'gone'}, at the dump it was {from_words(entry.build_id).hex()}"
            yield self._obstacle(file_id, entry, why, "install the version of the package that was dumped")

    def _obstacle(self, file_id: int, entry: Entry, why: str, remedy: str) -> Obstacle:
        holder = self.context.holder(file_id)
        remedy += " (restore_files does it)" if entry.name in self.context.offered else ""
        return Obstacle(0, f"{entry.name} ({holder})" if holder else entry.name, why, remedy)


def _seek(local: int, entry: Entry) -> None:
    if entry.flags & os.O_PATH:
        return
    set_flags(local, entry.flags)
    if entry.pos not in (0, NO_POS):
        os.lseek(local, entry.pos, os.SEEK_SET)


REGULAR = Kind("REG", "reg", is_by_path, RegularDump, RegularRestore)
