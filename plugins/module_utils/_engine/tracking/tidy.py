# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Removing what is remembered of processes that have ended, of userfaultfds that nobody has any more, and of pages files that are gone.

Nothing is removed that another engine may be about to need: what is young stays, and so does everything where we do not see all
processes of the machine.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import List, Set, Tuple

from .. import untouched
from ..kernel import procfs
from . import state, uffd_wp

_ENOUGH = 256
"""How many files there have to be: looking at all processes is worth it for many only."""
_YOUNG = 300
"""Seconds in which a file is left alone."""
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/uapi/linux/nsfs.h, PID_NS_INIT_INO
_INIT = 1
"""It is never dumped, and may be closed to us."""
_OF_PROCESS = re.compile(r"-([0-9]+)-([0-9]+)\.json")
_OF_CHAIN = re.compile(r"-chain-[^/]+\.stamps")
_OF_UFFD = re.compile(rf"{state.MARK}([0-9]+)")


def tidy() -> None:
    """Remove what is of no use any more, if it is much."""
    boot = procfs.boot_id()
    old = _old(len(boot))
    if len(old) < _ENOUGH or os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
        return
    with suppress(PermissionError):  # somebody is there whom we may not look into
        processes, inodes = _in_use()
        for name in old:
            path = os.path.join(state.DIRECTORY, name)
            if not name.startswith(boot) or not (_is_kept(name[len(boot) :], processes, inodes) or _is_chain_kept(name, path)):
                with suppress(FileNotFoundError):
                    os.unlink(path)


def _old(length: int) -> List[str]:
    """Return the files that are of one of these kinds and not young; their names begin with LENGTH characters that tell a boot."""
    latest = time.time() - _YOUNG
    found = []
    with suppress(FileNotFoundError):
        for one in os.scandir(state.DIRECTORY):
            if any(kind.fullmatch(one.name, length) for kind in (_OF_PROCESS, _OF_UFFD, _OF_CHAIN)) and one.stat().st_mtime < latest:
                found.append(one.name)
    return found


def _is_kept(name: str, processes: Set[Tuple[int, int]], inodes: Set[int]) -> bool:
    process, uffd = _OF_PROCESS.fullmatch(name), _OF_UFFD.fullmatch(name)
    return bool(process and (int(process.group(1)), int(process.group(2))) in processes or uffd and int(uffd.group(1)) in inodes)


def _is_chain_kept(name: str, path: str) -> bool:
    return name.endswith(".stamps") and untouched.is_of_use(path)


def _in_use() -> Tuple[Set[Tuple[int, int]], Set[int]]:
    """Return all processes, by each of their numbers and their start, and the inodes of their userfaultfds. PermissionError."""
    processes: Set[Tuple[int, int]] = set()
    inodes: Set[int] = set()
    for pid in set(procfs.processes()) - {_INIT}:
        with suppress(*procfs.GONE):
            started = procfs.stat(pid).start_time
            processes |= {(int(number), started) for number in procfs.status(pid)["NSpid"].split()}
            inodes |= uffd_wp.inodes(pid)
    return processes, inodes
