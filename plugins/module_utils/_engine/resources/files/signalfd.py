# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that are read as files (signalfd(2)). Images: files.img (signalfd_entry); what is pending is state of the task."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile
from .status import set_flags

NEW_DESCRIPTOR = -1
_SIGSET = struct.Struct("=Q")
"""The kernel's sigset_t: signal N is bit N - 1."""


def is_signalfd(file: OpenFile) -> bool:
    """Tell whether FILE is a signalfd."""
    return file.link == "anon_inode:[signalfd]"


class SignalfdDump(KindDump):
    """Dumps signalfds."""

    def collect(self, description: Description) -> Entry:
        """Return the signalfd_entry."""
        info = description.file.info
        return message("signalfd_entry")(
            id=description.file_id, flags=info.status_flags, fown=description.fown, sigmask=int(info.values["sigmask"], 16)
        )


class SignalfdRestore(KindRestore):
    """Makes signalfds; the signals that are read are those of the task that reads, whoever made the descriptor."""

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            mask = _SIGSET.pack(entry.sigmask)
            found[file_id] = self.context.keep(syscall("signalfd4", NEW_DESCRIPTOR, mask, _SIGSET.size, os.O_CLOEXEC))
            set_flags(found[file_id], entry.flags)
        return found


SIGNALFDS = Kind("SIGNALFD", "sgfd", is_signalfd, SignalfdDump, SignalfdRestore)
