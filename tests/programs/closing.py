# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections in the states of their end, with options, both ends in one process: `closing.py FOLDER`.

It writes FOLDER/ready, and after SIGUSR1 to FOLDER/result "ok", or what is not as it was.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
from pathlib import Path

TCP = socket.IPPROTO_TCP
TCP_FASTOPEN = 23
ESTABLISHED, FIN_WAIT2, CLOSE, CLOSE_WAIT = 1, 5, 7, 8


def pair(family: int, address: str) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection."""
    with socket.create_server((address, 0), family=family) as listening:
        client = socket.socket(family)
        client.connect(listening.getsockname())
        return client, listening.accept()[0]


def state(sock: socket.socket) -> int:
    return sock.getsockopt(TCP, socket.TCP_INFO, 1)[0]


def expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise RuntimeError(f"{what}: {found!r}, not {wanted!r}")


def await_end(sock: socket.socket) -> None:
    """Return when the peer's FIN has come."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll()


class Pairs:
    """The connections."""

    def __init__(self, family: int, address: str) -> None:
        self.open, self.open_peer = pair(family, address)
        self.open.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 12345)
        self.open.setsockopt(TCP, socket.TCP_NODELAY, 1)
        self.open.setsockopt(TCP, socket.TCP_KEEPIDLE, 99)
        self.open_peer.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
        self.open.send(b"unread")
        self.listening = socket.create_server((address, 0), family=family)
        self.listening.setsockopt(TCP, TCP_FASTOPEN, 7)
        self.listening.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, 5)
        self.deferring = self.listening.getsockopt(TCP, socket.TCP_DEFER_ACCEPT)
        self.half, self.half_peer = pair(family, address)
        self.half.send(b"last words")
        self.half.shutdown(socket.SHUT_WR)
        await_end(self.half_peer)
        self.closed, self.closed_peer = pair(family, address)
        self.closed.send(b"unread of old")
        self.closed.shutdown(socket.SHUT_WR)
        await_end(self.closed_peer)
        self.closed_peer.shutdown(socket.SHUT_WR)
        await_end(self.closed)

    def check(self) -> None:
        """Raise RuntimeError when anything is not as it was made."""
        expect([state(sock) for sock in (self.open, self.open_peer)], [ESTABLISHED] * 2, "open")
        expect([state(sock) for sock in (self.half, self.half_peer)], [FIN_WAIT2, CLOSE_WAIT], "half-closed")
        expect(state(self.closed_peer), CLOSE, "closed")
        expect(self.open.getsockopt(TCP, socket.TCP_USER_TIMEOUT), 12345, "TCP_USER_TIMEOUT")
        expect(self.open.getsockopt(TCP, socket.TCP_NODELAY), 1, "TCP_NODELAY")
        expect(self.open.getsockopt(TCP, socket.TCP_KEEPIDLE), 99, "TCP_KEEPIDLE")
        expect(self.open_peer.getsockopt(TCP, socket.TCP_CONGESTION, 5), b"reno\0", "TCP_CONGESTION")
        expect(self.open.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), 0, "SO_REUSEADDR")
        expect(self.listening.getsockopt(TCP, TCP_FASTOPEN), 7, "TCP_FASTOPEN")
        expect(self.listening.getsockopt(TCP, socket.TCP_DEFER_ACCEPT), self.deferring, "TCP_DEFER_ACCEPT")
        self.open_peer.send(b"back")
        expect(self.open.recv(100), b"back", "received")
        expect(self.open_peer.recv(100), b"unread", "unread")
        self.half_peer.send(b"answer")
        expect(self.half.recv(100), b"answer", "received where the own half is closed")
        expect([self.half_peer.recv(100), self.half_peer.recv(100)], [b"last words", b""], "unread before the end")
        self.half_peer.close()
        expect(self.half.recv(100), b"", "the end")
        expect([self.closed_peer.recv(100), self.closed_peer.recv(100)], [b"unread of old", b""], "unread of a closed connection")


def main() -> None:
    """Wait for SIGUSR1, and check."""
    folder = Path(sys.argv[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    found = [Pairs(socket.AF_INET, "127.0.0.1"), Pairs(socket.AF_INET6, "::1")]
    (folder / "ready").touch()
    signal.sigwait({signal.SIGUSR1})
    try:
        for pairs in found:
            pairs.check()
        result = "ok"
    except (OSError, RuntimeError) as error:
        result = repr(error)
    (folder / "result.new").write_text(result)
    (folder / "result.new").rename(folder / "result")
    signal.pause()


if __name__ == "__main__":
    main()
