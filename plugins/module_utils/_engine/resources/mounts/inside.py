# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread of ours that works in another mount namespace: what it opens by path is what a task there would open."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

from ...kernel import procfs
from ...kernel.mount import enter_namespace


class Inside:
    """The thread. A context manager; the namespace goes when the thread ends, unless a task is in it by then."""

    def __init__(self, enter: Callable[[], None]) -> None:
        """ENTER is called in the thread and takes it into the namespace."""
        self._enter = enter
        self._thread = ThreadPoolExecutor(1)
        self._tid = 0

    def __enter__(self) -> Inside:
        """Raises OSError when the namespace cannot be entered."""
        try:
            self.run(self._enter)
            self._tid = self.run(threading.get_native_id)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call FUNCTION in the thread; return or raise what it does."""
        return self._thread.submit(function, *args).result()

    def proc(self, name: str) -> str:
        """Return the path, outside, of file NAME of the thread in /proc."""
        return f"/proc/self/task/{self._tid}/{name}"


def inside_of(pid: int) -> Inside:
    """Return a thread in the mount namespace of PID; entering it raises OSError when the process is gone or may not be looked at."""

    def enter() -> None:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter_namespace(namespace)
        finally:
            os.close(namespace)

    return Inside(enter)


def is_ours(pid: int, tid: int = 0) -> bool:
    """Tell whether PID, or its thread TID, is in our own mount namespace. Raises OSError."""
    return namespace_of(pid, tid) == os.readlink("/proc/self/ns/mnt")


def namespace_of(pid: int, tid: int = 0, kind: str = "mnt") -> str:
    """Return what tells the mount namespace of PID, or of its thread TID, from others; or one of another KIND. Raises OSError."""
    return os.readlink(f"/proc/{pid}/task/{tid or pid}/ns/{kind}")


def namespaces_of(pids: Sequence[int], kind: str) -> dict[str, int]:
    """Return the namespaces of a KIND of PIDS and their threads, each with one of its processes; ended ones are left out."""
    found: dict[str, int] = {}
    for pid in pids:
        try:
            for tid in procfs.threads(pid):
                found.setdefault(namespace_of(pid, tid, kind), pid)
        except procfs.GONE:
            continue
    return found
