# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections that wait in a listening unix socket to be accepted (unix(7)), in their order.

images: a client that waits has the inode number of the listening socket for its peer in unix_sk_entry, as CRIU writes it; where
several wait, the listening socket has them in the order of their arrival in a field of our own. What a client has sent is in a
socket that nobody has a descriptor of before it is accepted, so it cannot be read; of a client that has closed it cannot even
be seen whether it has sent something.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...errors import Obstacle
from ...kernel.sock_diag import TCP_LISTEN, UnixSocket
from .kind import DumpContext, Entry, OpenFile

_CLOSED = 0
"""In the place of the inode number of a client that has closed its socket: the kernel has none for it any more."""


def check_waiting(context: DumpContext, file: OpenFile, sock: UnixSocket) -> Iterator[Obstacle]:
    """Warn of clients outside of the tree, which are not carried; refuse those that have closed."""
    if _CLOSED in sock.connecting:
        why = "a client has closed before it was accepted, and what it may have sent cannot be read"
        yield file.obstacle(why, "have the program accept it, or try again")
    if any(inode != _CLOSED and not context.files_of(inode) for inode in sock.connecting):
        who = f"process {file.pid}, {file.where}"
        context.warn(f"{who}: connections that wait to be accepted are not carried; their clients must connect again")


def listener_of(context: DumpContext, inode: int) -> int:
    """Return the inode number of the listening socket of the tree at which socket INODE waits, 0 when there is none."""
    for file in context.files():
        if file.link.startswith("socket:["):
            sock = context.unix_socket(file.stat.st_ino)
            if sock and sock.state == TCP_LISTEN and inode in sock.connecting:
                return sock.inode
    return 0


def read_waiting(context: DumpContext, sock: UnixSocket, entry: Entry) -> None:
    """Fill in which clients wait at SOCK, those outside of the tree left out."""
    waiting = [inode for inode in sock.connecting if context.files_of(inode)]
    if len(waiting) > 1:
        entry.stillframe.waiting.extend(waiting)


def connect_waiting(entries: Sequence[Entry], connect: Callable[[int, Entry], None], locals_of: Mapping[int, int]) -> set[int]:
    """Connect the clients of the listening sockets of ENTRIES in their order; return their inode numbers.

    CONNECT connects one of our descriptors to the name of an entry; LOCALS_OF: our descriptors by inode number.
    """
    done: set[int] = set()
    for entry in entries:
        for inode in entry.stillframe.waiting:
            os.set_blocking(locals_of[inode], False)
            connect(locals_of[inode], entry)
            done.add(inode)
    return done
