# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written down of files that have names for the time being, for the next receiver to tidy up should this one be killed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ..errors import ImagesError, KernelError
from ..kernel import procfs
from ..kernel.exchange import exchange
from ..tracking.state import DIRECTORY
from .decision import RUNS, is_session, state_here

_SUFFIX = ".files"


class Placed(NamedTuple):
    """A file with two names: for the time being, and for good."""

    directory: str
    temporary: str
    name: str
    inode: int
    """Of the new one."""


class Journal:
    """What is written down of one move."""

    def __init__(self, session: str) -> None:
        self._path = os.path.join(DIRECTORY, f"{procfs.numbering()}-{session}{_SUFFIX}")

    def write_down(self, files: Sequence[Placed]) -> None:
        """Keep FILES, as those of this process. Raises KernelError."""
        own = os.getpid(), procfs.stat(os.getpid()).start_time
        try:
            os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
            with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
                json.dump({"by": own, "files": files}, file)
        except OSError as error:
            raise KernelError(f"the files that come cannot be written down in {DIRECTORY} ({error.strerror}); make it writable") from error

    def strike_out(self) -> None:
        """Forget them."""
        with suppress(OSError):
            os.unlink(self._path)


def tidy() -> None:
    """Put the files of moves whose receiver was killed where they belong: the new ones if the tree runs here, else the old ones."""
    with suppress(FileNotFoundError):
        for name in os.listdir(DIRECTORY):
            session = name.removesuffix(_SUFFIX).removeprefix(f"{procfs.numbering()}-")
            if name.endswith(_SUFFIX) and is_session(session):
                _tidy(os.path.join(DIRECTORY, name), session)


def _tidy(path: str, session: str) -> None:
    with suppress(OSError, ValueError, KeyError, TypeError, ImagesError):
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        pid, start = values["by"]
        with suppress(*procfs.GONE):
            if procfs.stat(pid).start_time == start and procfs.lives(pid):
                return
        runs = state_here(session) == RUNS
        for one in (Placed(*each) for each in values["files"]):
            temporary, final = os.path.join(one.directory, one.temporary), os.path.join(one.directory, one.name)
            if not runs and _inode(final) == one.inode:
                if _inode(temporary):
                    exchange(temporary, final)
                else:
                    os.unlink(final)
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        os.unlink(path)


def _inode(path: str) -> int:
    """Return the number of the file at PATH, 0 where none is."""
    try:
        return os.lstat(path).st_ino
    except OSError:
        return 0
