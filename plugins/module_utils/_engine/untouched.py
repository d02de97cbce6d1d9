# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages files nobody has written to since we did, or since we checked them: those need no second check.

Every incremental dump relies on the pages of its parents. To read all of them again each time would cost more than the
dump itself; a file with the inode, size and times (mtime, ctime) that it had when it was known to be good still is, but for
what a disk does by itself, which a restore finds. Remembered until the next boot, by the id of the newest dump of the chain.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

from .errors import KernelError
from .images.chain import Chain
from .images.directory import pages_files
from .kernel import procfs
from .tracking.state import DIRECTORY

Stamp = list[int]
"""Device, inode, size, mtime and ctime in ns."""


def stamps(chain: Chain) -> Mapping[str, Stamp]:
    """Return the stamps of the pages files of CHAIN by their real paths; of those that are there."""
    return {path: stamp for path in _paths(chain) for stamp in [_stamp(path)] if stamp}


def verify(chain: Chain, now: Mapping[str, Stamp]) -> None:
    """Verify those pages of CHAIN that lie in files whose stamps, NOW, are not those that were remembered. Raises ChainError."""
    known = _remembered(chain)
    if known and known == now:
        return  # and spares the walk through the pagemaps
    good = {path for path, stamp in now.items() if known.get(path) == stamp}
    chain.verify_pages({path for dump in chain.dumps for path in pages_files(dump.path) if os.path.realpath(path) in good})


def is_of_use(file: str) -> bool:
    """Tell whether of what FILE, one of ours in DIRECTORY, remembers anything is still there as it was."""
    return any(_stamp(path) == stamp for path, stamp in _read(file).items())


def _remembered(chain: Chain) -> Mapping[str, Stamp]:
    return _read(_file(chain.dump_id))


def _read(path: str) -> Mapping[str, Stamp]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(chain: Chain) -> None:
    """Remember that all pages files of CHAIN are good now, and forget its parent's. Raises KernelError."""
    path = _file(chain.dump_id)
    try:
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        with open(os.open(path + ".partial", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            json.dump(stamps(chain), file)
        os.rename(path + ".partial", path)
        if chain.top.parent_id and os.path.exists(_file(chain.top.parent_id)):
            os.unlink(_file(chain.top.parent_id))
    except OSError as error:
        raise KernelError(f"cannot remember the state of the chain in {DIRECTORY} ({error.strerror}); make it writable") from error


def _paths(chain: Chain) -> Iterable[str]:
    return {os.path.realpath(path) for dump in chain.dumps for path in pages_files(dump.path)}


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _file(dump_id: str) -> str:
    return os.path.join(DIRECTORY, f"{procfs.boot_id()}-chain-{dump_id}.stamps")
