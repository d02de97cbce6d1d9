# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files on their way through unix sockets (SCM_RIGHTS; unix(7)): part of the tree, though no task may have a descriptor of them.

A peek at the message gives us copies of them and leaves it where it is.
"""

from __future__ import annotations

import fcntl
import os
import socket
from dataclasses import dataclass
from collections.abc import Iterator, Sequence

from ...errors import KernelError, Obstacle
from ...kernel.kcmp import KCMP_FILE, kcmp
from .kind import Kind, OpenFile
from .procfs import process_of
from .socket_options import SO_PEEK_OFF, borrowed
from .socket_queue import peek, peek_first
from .status import read_owner

_PIDFD = "PIDFD"


@dataclass(frozen=True)
class InFlight(OpenFile):
    """A file that a message carries; its pid and fd are those of our own copy."""

    carrier: OpenFile
    """The socket that the message waits in, which may be on its way itself."""

    @property
    def local(self) -> int:
        """Our copy, good until the survey ends."""
        return self.fd

    @property
    def where(self) -> str:
        """The file as a person would name it."""
        return f"{self.carrier.where}, {self.link} on its way through it"

    def obstacle(self, why: str, remedy: str) -> Obstacle:
        """Return the obstacle that this file is, to the process that is to receive it."""
        return Obstacle(self.carrier.obstacle("", "").pid, self.where, why, remedy)


def carries_files(file: OpenFile) -> bool:
    """Tell whether FILE is a unix socket in which descriptors wait to be received (scm_fds of its fdinfo, Linux 5.6)."""
    return file.link.startswith("socket:[") and int(file.info.values.get("scm_fds", "0")) > 0


def receive_copies(carrier: OpenFile, stopped: bool) -> list[int]:
    """Return copies of the files that wait in CARRIER, in their order; they are the caller's to close.

    Unless its tasks have STOPPED, those of the first message alone: to look at more, the socket itself would have to be set.
    """
    with borrowed(carrier.local) as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return []
        if stopped:
            found = [local for packet in peek(sock) for local in packet.rights]
            if len(found) != int(carrier.info.values["scm_fds"]):
                for local in found:
                    os.close(local)
                raise KernelError(f"{carrier.where} does not give out the descriptors that wait in it; have the program receive them")
            return found
        if sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) >= 0:  # our look would move the program's
            return []
        return peek_first(sock)


def check_in_flight(file: InFlight, kind: Kind, alike: Sequence[OpenFile]) -> Iterator[Obstacle]:
    """Refuse an open file that a task makes, or would have to complete and has no descriptor of; ALIKE: files of its inode."""
    if is_made_late(kind, file.link):
        yield file.obstacle("it is about a process, and made when that is there", "have the program receive it")
        return
    if any(not isinstance(other, InFlight) and kcmp(file.pid, other.pid, KCMP_FILE, file.fd, other.fd) == 0 for other in alike):
        return
    owner = read_owner(file)
    if owner.signum or owner.pid or file.flags & fcntl.FASYNC:
        yield file.obstacle("it sends signals, which only a process that has a descriptor of it can set", "have the program receive it")


def is_made_late(kind: Kind, path: str) -> bool:
    """Tell whether a file of KIND, of PATH where it has one, is made when the tasks are there: after the messages."""
    return kind.type == _PIDFD or process_of(path) != 0
