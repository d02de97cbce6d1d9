# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that somebody else gives at the restore: CRIU's --external at the dump, and --inherit-fd at the restore.

reg_file_entry.ext marks what the images have by its name alone. What else is given takes the place of what they have.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence

from ...errors import Obstacle, UsageError
from ...images.image import ImagesDir
from ...images.schema import message
from .in_flight import InFlight
from .kind import Entry, OpenFile

_EXTERNAL = re.compile(r"(file|tty)\[([0-9a-f]+:[0-9a-f]+)\]|(unix)\[([0-9]+)\]")
_INHERITED = re.compile(r"fd\[([0-9]+)\]:(.+)", re.DOTALL)
_AS_GIVEN = (1 << 64) - 1
"""The position of what CRIU is not to move in: a pipe or a terminal cannot be."""
_GIVE = "give it to the restore: --inherit-fd fd[N]:"


class External:
    """What a dump leaves to others."""

    def __init__(self, given: Sequence[str]) -> None:
        """GIVEN: each file[MNT_ID:INODE] or, of a terminal, tty[RDEV:DEV], in hexadecimal, or unix[INODE], an end of a connection.

        UsageError for what else CRIU knows.
        """
        for one in given:
            if not _EXTERNAL.fullmatch(one):
                text = "name a file[MNT_ID:INODE], a tty[RDEV:DEV], both in hexadecimal, or a unix[INODE]"
                raise UsageError(f"external {one!r} is not supported; {text}")
        self._names = frozenset(given)

    def has_socket(self, *inodes: int) -> bool:
        """Tell whether the connection between the unix sockets of INODES may be cut."""
        return any(f"unix[{inode}]" in self._names for inode in inodes)

    def has_file(self, file: OpenFile) -> bool:
        """Tell whether FILE is one that others give."""
        return not isinstance(file, InFlight) and bool(self._name(file))

    def entry(self, file_id: int, file: OpenFile, fown: Entry) -> Entry:
        """Return the reg_file_entry of FILE, which others give."""
        return message("reg_file_entry")(id=file_id, flags=file.flags, pos=_AS_GIVEN, fown=fown, name=self._name(file), ext=True)

    def _name(self, file: OpenFile) -> str:
        """Return the name by which FILE was given, "" when it was not."""
        names = [f"file[{file.info.mnt_id:x}:{file.stat.st_ino:x}]"]
        if stat.S_ISCHR(file.stat.st_mode):
            names.append(f"tty[{file.stat.st_rdev:x}:{file.stat.st_dev:x}]")
        return next((name for name in names if name in self._names), "")


class Inherited:
    """Descriptors of the caller's that take the place of files of the images."""

    def __init__(self, given: Sequence[str]) -> None:
        """GIVEN: each fd[N]:RESOURCE, where RESOURCE is pipe:[ID], socket:[INODE], file[…], tty[…] or a path. Raises UsageError."""
        self._by_name: dict[str, int] = {}
        self._found: dict[int, int] = {}
        for one in given:
            match = _INHERITED.fullmatch(one)
            if not match:
                raise UsageError(f"inherit_fd {one!r} is not of the form fd[N]:RESOURCE, such as fd[3]:pipe:[1234] or fd[3]:/path")
            self._by_name[match[2].lstrip("/")] = int(match[1])

    def take(self, entries: Mapping[str, dict[int, Entry]], images: ImagesDir) -> None:
        """Take out of ENTRIES, by type and file id, what is given. Raises ImagesError."""
        if not self._by_name:
            return
        terminals: list[Entry] = list(images.read("tty-info")) if images.has("tty-info") else []
        names_of_terminals = {one.id: f"tty[{one.rdev:x}:{one.dev:x}]" for one in terminals}
        for type_name, of_type in entries.items():
            names = {
                file_id: names_of_terminals.get(entry.tty_info_id, "") if type_name == "TTY" else _resource(type_name, entry, entries)
                for file_id, entry in of_type.items()
            }
            for file_id in [file_id for file_id, name in names.items() if name in self._by_name]:
                self._found[file_id] = self._by_name[names[file_id]]
                del of_type[file_id]

    def copies(self) -> dict[int, int]:
        """Return new descriptors of ours, by the file ids that they stand for. Raises OSError."""
        return {file_id: os.dup(number) for file_id, number in self._found.items()}

    def check(self, entries: Mapping[str, Mapping[int, Entry]]) -> list[Obstacle]:
        """Return what has to be given and is not, or is given and cannot be."""
        missing = [entry.name for entry in entries.get("REG", {}).values() if entry.ext]
        found = [Obstacle(0, name, "it was left to others by the dump (--external)", f"{_GIVE}{name}") for name in missing]
        for name, number in self._by_name.items():
            if number not in self._found.values():
                found.append(Obstacle(0, f"inherit_fd {name}", "the images have no such file", "look with crit x DIR fds"))
            elif not os.path.exists(f"/proc/self/fd/{number}"):
                found.append(Obstacle(0, f"inherit_fd {name}", f"there is no descriptor {number}", "open it for the engine"))
        return found


def _resource(type_name: str, entry: Entry, entries: Mapping[str, Mapping[int, Entry]]) -> str:
    """Return the name that CRIU has for a file, "" for one that cannot be given."""
    if type_name == "REG":
        return str(entry.name).lstrip("/")
    if type_name == "FIFO":
        regular = entries.get("REG", {}).get(entry.regf_id)
        return str(regular.name).lstrip("/") if regular is not None else ""
    if type_name == "PIPE":
        return f"pipe:[{entry.pipe_id}]"
    return f"socket:[{entry.ino}]" if type_name in ("UNIXSK", "INETSK") else ""
