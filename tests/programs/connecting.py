# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Connect to a port of this machine, send and receive: connecting.py FOLDER PORT waits|polls.

Writes its own port to FOLDER/own before it connects, and what it has received to FOLDER/answer.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SYN_SENT = 2
HOST = "127.0.0.1"


@contextmanager
def crowded() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket that listens and lets nobody in: its one place is taken, by the second that is returned."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first = stack.enter_context(socket.create_connection(server.getsockname()))
        yield server, first


def is_connecting(own: int) -> bool:
    """Tell whether the TCP socket with port OWN waits for an answer to its SYN."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    return any(row[1].endswith(f":{own:04X}") and int(row[3], 16) == SYN_SENT for row in rows)


def connect(sock: socket.socket, port: int, blocking: bool) -> None:
    """Connect SOCK, waiting in connect(2) or in poll(2)."""
    if blocking:
        sock.connect((HOST, port))
        return
    sock.setblocking(False)
    sock.connect_ex((HOST, port))
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    poll.poll()
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        sys.exit(error)
    sock.setblocking(True)


def main(folder: Path, port: int, blocking: bool) -> None:
    """Do it."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        (folder / "own").write_text(str(sock.getsockname()[1]))
        connect(sock, port, blocking)
        sock.send(b"hello")
        (folder / "answer").write_bytes(sock.recv(100))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "waits")
