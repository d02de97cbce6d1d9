# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A process of ours that outlives us for a moment: it takes back what a restore has done to files, should the restore be killed.

It does nothing as long as we live. When we end without a word, it takes back; when we end right while the tree is let go, it looks
whether the tree runs: then the files are the tree's.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Container
from contextlib import suppress
from typing import Callable, NoReturn

_GOING, _DONE = b"g", b"d"
_PATIENCE = 2000
"""Milliseconds for a process to end that is killed: its tracer's end kills it (PTRACE_O_EXITKILL)."""
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Guardian:
    """The process. A context manager; leaving it makes it end without doing anything."""

    def __init__(self, take_back: Callable[[], None], discard: Callable[[], None], numbers: Container[int] = ()) -> None:
        """NUMBERS: the PIDs that it may not have."""
        self._numbers = numbers
        self._take_back = take_back
        self._discard = discard
        self._pid = 0
        self._tells = -1

    def __enter__(self) -> Guardian:
        """Start it. Raises OSError."""
        self._start()
        while self._pid in self._numbers:
            self._end()
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _start(self) -> None:
        hears, self._tells = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _watch(hears, self._take_back, self._discard)
        os.close(hears)

    def _end(self) -> None:
        with suppress(BrokenPipeError):  # it was killed, and we were not
            os.write(self._tells, _DONE)
        os.close(self._tells)
        os.waitpid(self._pid, 0)

    def going(self, root: int) -> None:
        """Tell it that process ROOT is let go next. Raises OSError when it was killed."""
        os.write(self._tells, _GOING + root.to_bytes(4, "little"))


def _watch(hears: int, take_back: Callable[[], None], discard: Callable[[], None]) -> NoReturn:
    """Be the process."""
    try:
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)
        os.setsid()
        _close_all_but(hears)
        heard = b""
        while part := os.read(hears, 16):
            heard += part
        if not heard.endswith(_DONE):
            if heard.startswith(_GOING) and _runs(int.from_bytes(heard[1:5], "little")):
                discard()
            else:
                take_back()
    finally:
        os._exit(0)


def _runs(root: int) -> bool:
    """Tell whether process ROOT, which was traced by who has ended, goes on."""
    with suppress(OSError):
        pidfd = os.pidfd_open(root)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(_PATIENCE)
    return False


def _close_all_but(fd: int) -> None:
    """Close our copies of the descriptors of the restore: none is to be held longer than it lives."""
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number != fd:
            with suppress(OSError):
                os.close(number)
