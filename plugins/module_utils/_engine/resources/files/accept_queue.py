# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections that wait to be accepted: the kernel lets nobody put one into a queue, so a tree is stopped when there are none.

What comes while it stands still is taken by the tree as it goes on. Where it goes on elsewhere, newcomers are kept away meanwhile:
the first packet of theirs is dropped, and they send it again a second later.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ...clock import Clock
from ...kernel import procfs
from ...kernel.fdinfo import descriptors
from ...kernel.inet_diag import TCP_LISTEN, TCP_SYN_RECV, TcpSocket, tcp_sockets
from ...kernel.nftables import Nftables
from ...tracee.freeze import FrozenTree

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_ATTEMPTS = 20
_PAUSE = 0.005
"""Seconds between two of them: who was stopped accepts what came meanwhile."""
_PATIENCE = 0.25
"""Seconds that connections which are being made may take."""
_STEP = 0.001


@dataclass(frozen=True)
class AcceptQueues:
    """The sockets on which a tree takes TCP connections."""

    listeners: tuple[TcpSocket, ...] = ()

    @staticmethod
    def look(pids: Sequence[int]) -> AcceptQueues:
        """Return those of PIDS, which may run; they are in our network namespace. Raises OSError when the kernel lists none."""
        found = list(_listed(TCP_LISTEN))
        inodes = set(_socket_inodes(pids)) if found else set()
        return AcceptQueues(tuple(one for one in found if one.inode in inodes))

    @property
    def inodes(self) -> frozenset[int]:
        """Their st_ino."""
        return frozenset(one.inode for one in self.listeners)

    def waiting(self) -> frozenset[int]:
        """Return the inodes of those on which somebody waits. Raises OSError."""
        now = _listed(TCP_LISTEN) if self.listeners else ()
        return self.inodes & {one.inode for one in now if one.receive_queue}

    def _half_open(self) -> bool:
        """Tell whether a connection is just being made to one of them. Raises OSError."""
        ports = {one.port for one in self.listeners}
        return any(one.port in ports for one in _listed(TCP_SYN_RECV))

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep newcomers away for the length of the block, or until we die; begin when those who were coming are in. Raises OSError."""
        if not self.listeners:
            yield
            return
        with Nftables() as nftables:
            nftables.keep_away(f"stillframe-syn-{os.getpid()}", [(one.address, one.port) for one in self.listeners])
            deadline = time.monotonic() + _PATIENCE
            while (self._half_open() or self.waiting()) and time.monotonic() < deadline:
                time.sleep(_STEP)  # no event tells that they have been accepted
            yield


@contextmanager
def stopped_at_rest(root: int, timeout: float, queues: AcceptQueues, clock: Clock) -> Iterator[tuple[FrozenTree, frozenset[int]]]:
    """Stop the tree under ROOT, each time within TIMEOUT seconds, until nobody waits in QUEUES; the last time in any case.

    Yields the tree, and the inodes of those on which nobody waited; CLOCK has when it began to be stopped, as "freezing".
    Raises what FrozenTree does, OSError.
    """
    for left in reversed(range(_ATTEMPTS)):
        clock.mark_again("freezing")
        with FrozenTree(root, timeout) as tree:
            waiting = queues.waiting()
            if not waiting or not left:
                yield tree, queues.inodes - waiting
                return
        time.sleep(_PAUSE)


def _listed(state: int) -> Iterator[TcpSocket]:
    for family in _FAMILIES:
        yield from tcp_sockets(family, state)


def _socket_inodes(pids: Sequence[int]) -> Iterator[int]:
    for pid in pids:
        with suppress(*procfs.GONE):
            for fd in descriptors(pid):
                with suppress(*procfs.GONE):
                    link = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if link.startswith("socket:["):
                        yield int(link[len("socket:[") : -1])
