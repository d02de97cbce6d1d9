# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""FIFOs (named pipes), with what is in them.

images: files.img (fifo_entry, and a reg_file_entry for the path and flags of each), fifo-data (size and content).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from ...errors import ImagesError, Obstacle
from ...images.image import ImagesDir
from ...images.schema import message
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext
from .pipe import PipeContents, absent_end, fill_pipe, is_pipe, read_contents
from .regular import RegularDump
from .status import for_open, set_flags


def is_fifo(file: OpenFile) -> bool:
    """Tell whether FILE is a FIFO that was opened by path."""
    return stat.S_ISFIFO(file.stat.st_mode) and not is_pipe(file)


class FifoDump(KindDump):
    """Dumps FIFOs."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._contents = PipeContents("fifo-data")

    def check(self, file: OpenFile) -> Iterable[Obstacle]:
        """Return what keeps the path from being opened again, and warn when the other end is elsewhere."""
        warning = absent_end(self.context, file)
        if warning:
            self.context.warn(warning)
        return RegularDump(self.context).check(file)

    def collect(self, description: Description) -> Entry:
        """Return the fifo_entry, having added its path, and take the content."""
        file = description.file
        self._contents.take(file.stat.st_ino, file.local, file.flags)
        path_id = self.context.add_path(file.local, file.link, file.flags, file.info.pos, description.fown)
        return message("fifo_entry")(id=description.file_id, pipe_id=file.stat.st_ino & 0xFFFFFFFF, regf_id=path_id)

    def write(self, images: ImagesDir) -> None:
        """Write the content."""
        self._contents.write(images)

    def close(self) -> None:
        """Drop our copies."""
        self._contents.close()


class FifoRestore(KindRestore):
    """Opens FIFOs by path and fills them; whether they are there is checked with the other paths."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._filled: set[int] = set()

    def check(self, entries: Mapping[int, Entry]) -> Iterable[Obstacle]:
        """Raise ImagesError when the path of a FIFO is not in the images."""
        missing = [file_id for file_id, entry in entries.items() if _path_id(entry) not in self.context.entries_of("REG")]
        if missing:
            raise ImagesError(f"{self.context.images.file('files')} lacks the path of FIFO {missing[0]}; use another copy of the dump")
        return ()

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Open every FIFO, held open for both directions meanwhile, so that none blocks and no content is lost."""
        contents = read_contents(self.context.images, "fifo-data")
        paths = self.context.entries_of("REG")
        holders: list[int] = []
        found: dict[int, int] = {}
        try:
            for file_id, entry in entries.items():
                place, flags = f"/proc/self/fd/{self.context.local(_path_id(entry))}", paths[_path_id(entry)].flags
                holders.append(os.open(place, os.O_RDWR | os.O_CLOEXEC))
                found[file_id] = self.context.keep(os.open(place, for_open(flags)))
                set_flags(found[file_id], flags)
                if entry.pipe_id not in self._filled:
                    self._filled.add(entry.pipe_id)
                    fill_pipe(holders[-1], contents.get(entry.pipe_id))
        finally:
            for holder in holders:
                os.close(holder)
        return found


def _path_id(entry: Entry) -> int:
    """Return the file id of the path; old images give both entries one id."""
    return int(entry.regf_id if entry.HasField("regf_id") else entry.id)


FIFOS = Kind("FIFO", "fifo", is_fifo, FifoDump, FifoRestore)
