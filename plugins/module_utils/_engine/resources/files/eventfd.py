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


def is_semaphore(local: int, counter: int) -> bool:
    """Tell whether the eventfd LOCAL, which shows COUNTER, has EFD_SEMAPHORE: by reading it, for kernels that do not show it.

    Who reads a semaphore gets 1, who reads another counter gets all that it has. It shows COUNTER again afterwards.
    """
    added = max(2 - counter, 0)
    if added:
        os.write(local, _COUNTER.pack(added))
    (got,) = _COUNTER.unpack(_read(local))
    left = counter + added - got
    if left > counter:
        _read(local)
    elif left < counter:
        os.write(local, _COUNTER.pack(counter - left))
    return bool(got == 1)


def _read(local: int) -> bytes:
    """Return what a read takes from the eventfd LOCAL; it never waits, whatever its flags are (RWF_NOWAIT, Linux 5.8)."""
    found = bytearray(_COUNTER.size)
    os.preadv(local, [found], -1, os.RWF_NOWAIT)
    return bytes(found)


class EventfdDump(KindDump):
    """Dumps event counters."""

    def collect(self, description: Description) -> Entry:
        """Return the eventfd_file_entry; the kernel shows the counter in fdinfo without changing it."""
        file, info = description.file, description.file.info
        counter = int(info.values["eventfd-count"], 16)
        told = info.values.get("eventfd-semaphore")  # Linux 6.5
        semaphore = told == "1" if told else is_semaphore(file.local, counter)
        flags = info.status_flags | (EFD_SEMAPHORE if semaphore else 0)
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
