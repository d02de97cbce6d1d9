# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections that carry checked data both ways without end: `streams.py server|pair FOLDER ADDRESS`.

`server` takes one client from outside, and so does `busy`, which has threads and a timer besides, and for which a SIGCONT is a fault;
`pair` has both ends, in two processes. The port is written to FOLDER/port, how many bytes each end has received and found right to
FOLDER/received-NAME, and what went wrong to FOLDER/failed.
"""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

TABLE = random.Random(1).randbytes(65521) * 2
"""What is sent, over and over: a prime number of bytes, so that none is lost or doubled without a difference. Twice, to be cut from."""
PERIOD = len(TABLE) // 2
PIECE = 8192
AHEAD = 1 << 17
"""How much more is sent than was received: both ends go on at one pace."""


def stream(sock: socket.socket, received: Callable[[int], bool]) -> None:
    """Send and check data until RECEIVED, which is told how much came, answers False. RuntimeError when anything is not as it was sent."""
    sock.setblocking(False)
    done = (0, 0)
    while received(done[1]):
        done = _step(sock, *done)


def _step(sock: socket.socket, sent: int, came: int) -> tuple[int, int]:
    """Send and check one piece each; return how much was sent and how much came in all."""
    writers = [sock] if sent - came < AHEAD else []
    readable, writable, _failed = select.select([sock], writers, [], 1)
    if readable:
        data = sock.recv(PIECE)
        start = came % PERIOD
        if not data or data != TABLE[start : start + len(data)]:
            raise RuntimeError(f"{len(data)} bytes are wrong after {came}")
        return sent, came + len(data)
    if writable:
        start = sent % PERIOD
        sent += sock.send(TABLE[start : start + PIECE])
    return sent, came


class Client:
    """The end of a connection that is outside of the tree: it streams in a thread."""

    def __init__(self, address: str, port: int) -> None:
        self._sock = socket.create_connection((address, port))
        self._ended = False
        self._thread = threading.Thread(target=self._run)
        self.count = 0
        self.error = ""

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        try:
            stream(self._sock, self._received)
        except (OSError, RuntimeError) as error:
            self.error = repr(error)

    def _received(self, count: int) -> bool:
        self.count = count
        return not self._ended


def run(folder: Path, name: str, sock: socket.socket) -> None:
    """Stream until killed."""
    progress = os.open(folder / f"received-{name}", os.O_RDWR | os.O_CREAT, 0o600)

    def received(count: int) -> bool:
        os.pwrite(progress, count.to_bytes(8, "big"), 0)
        return True

    try:
        stream(sock, received)
    except (OSError, RuntimeError) as error:
        (folder / "failed").write_text(f"{name}: {error!r}")
        raise


def fault(number: int, _frame: object) -> None:
    """Fail for a signal that nobody has sent."""
    raise RuntimeError(f"signal {number}")


def tick() -> None:
    """Sleep for short, for ever."""
    while True:
        time.sleep(0.0001)


def be_busy() -> None:
    """Have threads that wait and one that goes in and out of the kernel, and a signal each 5 ms."""
    for work in (signal.pause, signal.pause, tick):
        threading.Thread(target=work, daemon=True).start()
    signal.signal(signal.SIGCONT, fault)
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)


def main() -> None:
    """Serve."""
    role, folder, address = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    listening = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    if role == "pair":
        client = socket.create_connection(listening.getsockname()[:2])
        server = listening.accept()[0]
        mine, name = (server, "server") if os.fork() else (client, "client")
        (client if mine is server else server).close()
        run(folder, name, mine)
    else:
        (folder / "port.new").write_text(str(listening.getsockname()[1]))
        (folder / "port.new").rename(folder / "port")
        sock = listening.accept()[0]
        if role == "busy":
            be_busy()
        run(folder, "server", sock)


if __name__ == "__main__":
    main()
