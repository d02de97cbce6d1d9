# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Controlling terminals of sessions and their foreground groups (credentials(7), tty_ioctl(4): TIOCSCTTY, tcsetpgrp(3)).

images: tty-info (tty_info_entry.{sid,pgrp}).
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ...kernel import tty
from .. import pstree
from .kind import RestoreContext, Stub

_PID = struct.Struct("=i")


@dataclass(frozen=True)
class Control:
    """A terminal that a session is to have."""

    local: int
    """Our descriptor of it, of a pseudo-terminal that of its slave; stubs have it under the same number."""
    session: int
    group: int
    """That in the foreground."""


class ControllingTerminals:
    """The terminals of one restore that control sessions.

    Only the leader of a session can take one; the others have theirs from who has forked them.
    """

    def __init__(self, context: RestoreContext) -> None:
        self._context = context
        self._controls: list[Control] = []
        self._outer: Control | None = None

    def add(self, control: Control) -> None:
        """Take a terminal."""
        self._controls.append(control)

    def replace(self, control: Control) -> None:
        """Take our own terminal, which is in the place of CONTROL."""
        self._outer = control

    def locals(self) -> Sequence[int]:
        """Return the descriptors that stubs have to have."""
        return [control.local for control in self._controls]

    def lead(self, pid: int, stub: Stub) -> None:
        """Have process PID take the terminal of its session, which has no other process yet. Raises OSError."""
        for control in self._controls:
            if control.session == pid:
                stub.call("ioctl", control.local, tty.TIOCSCTTY, 0)

    def attach(self, stubs: Mapping[int, Stub]) -> None:
        """Give terminals their foreground groups, all of which are there. Raises OSError."""
        tree = pstree.read(self._context.images)
        groups = {(task.sid, task.pgid) for task in tree.tasks}
        for control in self._controls:
            leader = stubs.get(control.session)
            if leader is not None and (control.session, control.group) in groups:
                leader.call("ioctl", control.local, tty.TIOCSPGRP, _PID.pack(control.group))
        if self._outer is not None:
            self._take_over(self._outer, tree)

    def _take_over(self, control: Control, tree: pstree.Pstree) -> None:
        """Give the foreground of our own terminal to the group of the tree that had it, or to that of its root."""
        if not tree.outside(control.session):
            self._context.warn(f"session {control.session} has no controlling terminal: that of the restore is the restore's own")
            return
        wanted = [group for group in (control.group, tree.root.pgid) if not tree.outside(group)]
        before = tty.ask(0, tty.TIOCGPGRP)
        if wanted and before:
            with as_if_in_foreground():
                tty.tell(0, tty.TIOCSPGRP, wanted[0])
            self._context.undo(lambda: _set_group(before))


def _set_group(group: int) -> None:
    with as_if_in_foreground():
        tty.tell(0, tty.TIOCSPGRP, group)


@contextmanager
def as_if_in_foreground() -> Iterator[None]:
    """Let us change our terminal even if our group is not in its foreground: SIGTTOU would stop us."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
