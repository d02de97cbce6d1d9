# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What inotify and fanotify watch: files by handle and path (fh_entry of CRIU's fh.proto), unlinked ones as the ghosts that they are."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain

from ...errors import RestoreError
from ...images.schema import enum, message
from ...kernel.fsnotify import Handle, open_handle, path_of
from .kind import DumpContext, Entry, RestoreContext

_WORD = 8
_WORDS = 16
"""How many words a handle fills in CRIU's images (fh_entry_sizes.min_entries)."""


def device_number(status: os.stat_result) -> int:
    """Return st_dev in the kernel's own encoding."""
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev)


def is_ghost(context: DumpContext, device: int, inode: int) -> bool:
    """Tell whether a file is unlinked and travels in the images, since a descriptor of the tree has it open."""
    found = (file.stat for file in context.files_of(inode))
    return any(status.st_nlink == 0 and device_number(status) == device for status in found)


class Paths:
    """Where watched files are, for one dump."""

    def __init__(self, context: DumpContext) -> None:
        self._context = context
        self._known: dict[Handle, str] = {}

    def find(self, handle: Handle) -> str:
        """Return a path of the file of HANDLE, empty when none is found: by its handle, or as what the tree has open or near that."""
        if handle not in self._known:
            self._known[handle] = path_of(handle) or self._search(handle)
        return self._known[handle]

    def _search(self, handle: Handle) -> str:
        for file in self._context.files():
            if file.link.startswith("/"):
                directory = os.path.dirname(file.link)
                for path in (file.link, directory):
                    if _leads_to(path, handle):
                        return path
        candidates = chain(self._neighbours(handle.inode), self._scan(handle.inode))
        return next((path for path in candidates if _leads_to(path, handle)), "")

    def _scan(self, inode: int) -> Iterator[str]:
        """Yield what has that INODE below the directories that the user has named."""
        for top in self._context.options.irmap_scan_path:
            yield top
            for directory, _directories, _files in os.walk(top):
                with suppress(OSError):  # it is gone, or closed to us
                    yield from (entry.path for entry in os.scandir(directory) if entry.inode() == inode)

    def _neighbours(self, inode: int) -> list[str]:
        """Return the entries with that INODE of the directories in which the tree works."""
        pids = {file.pid for file in self._context.files()}
        links = [os.readlink(f"/proc/{pid}/{name}") for pid in pids for name in ("cwd", "exe") if os.path.exists(f"/proc/{pid}/{name}")]
        directories = {path for link in links for path in (link, os.path.dirname(link)) if os.path.isdir(path)}
        found = [entry.path for directory in directories for entry in os.scandir(directory) if entry.inode() == inode]
        return [*directories, *found]


def _leads_to(path: str, handle: Handle) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_ino == handle.inode and device_number(status) == handle.device


def handle_entry(handle: Handle, path: str) -> Entry:
    """Return the fh_entry of a watched file."""
    padded = handle.content.ljust(_WORDS * _WORD, b"\0")
    entry = message("fh_entry")(bytes=len(handle.content), type=handle.type, handle=struct.unpack(f"={_WORDS}Q", padded))
    if path:
        entry.path = path
    return entry


class Targets:
    """Opens watched files, after all others have been opened."""

    def __init__(self, context: RestoreContext) -> None:
        self._context = context
        self._ghosts: dict[tuple[int, int], int] | None = None

    def missing(self, device: int, inode: int, entry: Entry) -> str:
        """Return why what is watched is not there, empty when it is."""
        if (device, inode) in self._unlinked():
            return ""
        try:
            os.close(self._open(device, inode, entry))
        except OSError as error:
            return f"{entry.path or f'inode {inode}'}, which is watched, cannot be found ({error.strerror or error})"
        return ""

    def open(self, device: int, inode: int, entry: Entry) -> int:
        """Return a descriptor of ours, the caller's to close. RestoreError when the file is gone."""
        try:
            ghost = self._unlinked().get((device, inode))
            return os.dup(self._context.local(ghost)) if ghost is not None else self._open(device, inode, entry)
        except OSError as error:
            raise RestoreError(f"{entry.path or f'inode {inode}'}, which is watched, cannot be opened ({error}); put it back") from error

    def _open(self, device: int, inode: int, entry: Entry) -> int:
        if entry.HasField("path"):
            return os.open(entry.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        content = struct.pack(f"={len(entry.handle)}Q", *entry.handle)[: entry.bytes]
        return open_handle(Handle(device, inode, entry.type, content))

    def _unlinked(self) -> Mapping[tuple[int, int], int]:
        """Return the files of the images that are ghosts, by device and inode at the dump."""
        if self._ghosts is None:
            self._ghosts, images = {}, self._context.images
            for remap in images.read("remap-fpath") if images.has("remap-fpath") else []:
                one: Entry = remap
                if one.remap_type == enum("remap_type")["GHOST"] and images.has(f"ghost-file-{one.remap_id:x}"):
                    head: Entry = images.entries(f"ghost-file-{one.remap_id:x}")[0].message
                    self._ghosts[head.dev, head.ino] = one.orig_id
        return self._ghosts
