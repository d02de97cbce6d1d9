# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Event counters (eventfd(2)).

images: files.img (eventfd_file_entry). CRIU has no field for EFD_SEMAPHORE and loses it; ours stands as bit 0 of `flags`, which
is free there (the access mode of an eventfd is O_RDWR, 2) and which CRIU passes over.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile
from .status import set_flags

EFD_SEMAPHORE = 1
_COUNTER = struct.Struct("=Q")


def is_eventfd(file: OpenFile) -> bool:
    """Tell whether FILE is an eventfd."""
    return file.link == "anon_inode:[eventfd]"


class EventfdDump(KindDump):
    """Dumps event counters."""

    def collect(self, description: Description) -> Entry:
        """Return the eventfd_file_entry; the kernel shows the counter in fdinfo without changing it."""
        info = description.file.info
        flags = info.status_flags | (EFD_SEMAPHORE if info.values.get("eventfd-semaphore") == "1" else 0)
        counter = int(info.values["eventfd-count"], 16)
        return message("eventfd_file_entry")(id=description.file_id, flags=flags, fown=description.fown, counter=counter)


class EventfdRestore(KindRestore):
    """Makes event counters."""

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them with their counts."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            local = found[file_id] = self.context.keep(syscall("eventfd2", 0, os.O_CLOEXEC | entry.flags & EFD_SEMAPHORE))
            if entry.counter:  # eventfd2 itself takes 32 bits only
                os.write(local, _COUNTER.pack(entry.counter))
            set_flags(local, entry.flags)
        return found


EVENTFDS = Kind("EVENTFD", "efd", is_eventfd, EventfdDump, EventfdRestore)
