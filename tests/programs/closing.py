# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections in the states of their end, with options, both ends in one process: `closing.py FOLDER [common]`.

With "common" without the options that CRIU does not carry. It writes FOLDER/ready, and after SIGUSR1 to FOLDER/result
"ok", or what is not as it was.
"""

from __future__ import annotations

import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

TCP = socket.IPPROTO_TCP
TCP_FASTOPEN = 23
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 4, 5, 7, 8, 9, 11
SMALL = 4096
"""What is asked for as the size of a buffer, so that it is soon full."""


def pair(family: int, address: str, buffers: int = 0) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection, with BUFFERS of that size unless 0."""
    with socket.create_server((address, 0), family=family) as listening, socket.socket(family) as first:
        for sock in (listening, first) if buffers else ():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        client = first.dup()
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


def fill(sock: socket.socket) -> bytes:
    """Send until neither the peer nor SOCK takes more, and close this half; return what was sent. Its FIN waits behind that."""
    sock.setblocking(False)
    sent = bytearray()
    with suppress(BlockingIOError):
        while True:
            piece = bytes((len(sent) + place) % 251 for place in range(SMALL))
            sent += piece[: sock.send(piece)]
    sock.setblocking(True)
    sock.shutdown(socket.SHUT_WR)
    return bytes(sent)


def drain(sock: socket.socket) -> bytes:
    """Read to the end."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


class FullPairs:
    """Connections whose FIN has not been acknowledged, for there are data before it that the peer has no room for."""

    def __init__(self, family: int, address: str) -> None:
        self.first, self.first_peer = pair(family, address, SMALL)
        self.of_first = fill(self.first)
        self.last, self.last_peer = pair(family, address, SMALL)
        self.last_peer.shutdown(socket.SHUT_WR)
        await_end(self.last)
        self.of_last = fill(self.last)
        self.crossed, self.crossed_peer = pair(family, address, SMALL)
        self.of_crossed, of_peer = fill(self.crossed), fill(self.crossed_peer)
        expect(drain(self.crossed), of_peer, "received where both ends have closed")

    def check(self) -> None:
        """Raise RuntimeError when anything is not as it was made."""
        expect([state(sock) for sock in (self.first, self.first_peer)], [FIN_WAIT1, ESTABLISHED], "closed first")
        expect([state(sock) for sock in (self.last, self.last_peer)], [LAST_ACK, FIN_WAIT2], "closed last")
        expect([state(sock) for sock in (self.crossed, self.crossed_peer)], [CLOSING, FIN_WAIT2], "closed at once")
        expect(drain(self.first_peer), self.of_first, "of the one that closed first")
        self.first_peer.send(b"answer")
        expect(self.first.recv(100), b"answer", "received by the one that closed first")
        expect(drain(self.last_peer), self.of_last, "of the one that closed last")
        expect(drain(self.crossed_peer), self.of_crossed, "of one of two that closed at once")


class Pairs:
    """The connections."""

    def __init__(self, family: int, address: str, common: bool) -> None:
        self._common = common
        self.open, self.open_peer = pair(family, address)
        if not common:
            self.open.setsockopt(TCP, socket.TCP_USER_TIMEOUT, 12345)
        self.open.setsockopt(TCP, socket.TCP_NODELAY, 1)
        self.open.setsockopt(TCP, socket.TCP_KEEPIDLE, 99)
        if not common:
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
        if not self._common:
            self._check_options()
        expect(self.open.getsockopt(TCP, socket.TCP_NODELAY), 1, "TCP_NODELAY")
        expect(self.open.getsockopt(TCP, socket.TCP_KEEPIDLE), 99, "TCP_KEEPIDLE")
        self.open_peer.send(b"back")
        expect(self.open.recv(100), b"back", "received")
        expect(self.open_peer.recv(100), b"unread", "unread")
        self.half_peer.send(b"answer")
        expect(self.half.recv(100), b"answer", "received where the own half is closed")
        expect([self.half_peer.recv(100), self.half_peer.recv(100)], [b"last words", b""], "unread before the end")
        self.half_peer.close()
        expect(self.half.recv(100), b"", "the end")
        expect([self.closed_peer.recv(100), self.closed_peer.recv(100)], [b"unread of old", b""], "unread of a closed connection")

    def _check_options(self) -> None:
        expect(self.open.getsockopt(TCP, socket.TCP_USER_TIMEOUT), 12345, "TCP_USER_TIMEOUT")
        expect(self.open_peer.getsockopt(TCP, socket.TCP_CONGESTION, 5), b"reno\0", "TCP_CONGESTION")
        expect(self.open.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR), 0, "SO_REUSEADDR")
        expect(self.listening.getsockopt(TCP, TCP_FASTOPEN), 7, "TCP_FASTOPEN")
        expect(self.listening.getsockopt(TCP, socket.TCP_DEFER_ACCEPT), self.deferring, "TCP_DEFER_ACCEPT")


def main() -> None:
    """Wait for SIGUSR1, and check."""
    folder = Path(sys.argv[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    common = "common" in sys.argv[2:]
    found: list[Pairs | FullPairs] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        found += [Pairs(family, address, common), FullPairs(family, address)]
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
