# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of redis that writes at a fixed rate, each connection open all the time, and tells how long it waited.

`steady_client.py ADDRESS PORT KEYS fill` gives each key a value of its own; `… load RATE CONNECTIONS` writes until it is told
to end (a line, or the end of its input), and then prints as JSON what it saw. Every command is numbered, and redis counts along:
one that was lost, or done twice, shows in the next answer.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import sys
import time

VALUE = 4000
"""Bytes of a value: with its header in redis it fills a page."""
_LONG = 0.005
"""Seconds that are a long wait."""
_AHEAD = 256
"""Commands of the filling that wait for their answer."""


def command(*words: bytes) -> bytes:
    """Return a command in redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def fill(address: str, port: int, keys: int) -> None:
    """Give every key a value that compresses to nothing smaller."""
    with socket.create_connection((address, port)) as sock, sock.makefile("rb") as answers:
        for key in range(keys + _AHEAD):
            if key < keys:
                sock.sendall(command(b"SET", b"key:%d" % key, os.urandom(VALUE)))
            if key >= _AHEAD and answers.readline() != b"+OK\r\n":
                raise RuntimeError("redis does not take the data")


class Connection:
    """One connection, which has one command under way at a time: a value is set, and a counter is counted up."""

    def __init__(self, address: str, port: int, number: int, keys: int) -> None:
        self.sock = socket.create_connection((address, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._counter = b"counter:%d" % number
        self._keys = keys
        self._random = random.Random(number)
        self._awaited = b""
        self._came = b""
        self._sent_at = 0.0
        self.count = 0
        self.waits: list[tuple[float, float]] = []
        """When a command was sent, and the seconds to its answer: of those that waited for long."""

    @property
    def idle(self) -> bool:
        """Whether all answers have come."""
        return not self._awaited

    def send(self) -> None:
        """Send the next command."""
        self.count += 1
        self._awaited = b"+OK\r\n:%d\r\n" % self.count
        self._sent_at = time.monotonic()
        key = b"key:%d" % self._random.randrange(self._keys)
        self.sock.sendall(command(b"SET", key, self._random.randbytes(VALUE)) + command(b"INCR", self._counter))

    def receive(self) -> None:
        """Take what has come. Raises RuntimeError for an answer that is not the one that is due."""
        data = self.sock.recv(4096)
        self._came += data
        if not data or not self._awaited.startswith(self._came):
            raise RuntimeError(f"{self._came!r} came where {self._awaited!r} was due")
        if self._came == self._awaited:
            wait = time.monotonic() - self._sent_at
            if wait > _LONG:
                self.waits.append((self._sent_at, wait))
            self._awaited = self._came = b""


def load(address: str, port: int, keys: int, rate: float, number: int) -> None:
    """Write RATE times a second until there is input, and print what was seen."""
    connections = [Connection(address, port, one, keys) for one in range(number)]
    by_fd = {one.sock.fileno(): one for one in connections}
    poll, turn, due, ending = select.poll(), 0, time.monotonic(), False
    for fd in (0, *by_fd):
        poll.register(fd, select.POLLIN)
    print("ready", flush=True)
    error = ""
    try:
        while not ending or not all(one.idle for one in connections):
            now = time.monotonic()
            if now >= due and not ending:
                due = max(due + 1 / rate, now - 1)
                turn = (turn + 1) % number
                if connections[turn].idle:  # else its turn is lost, as that of a client that waits
                    connections[turn].send()
                continue
            for fd, _events in poll.poll(1000 if ending else max(due - now, 0) * 1000):
                if fd in by_fd:
                    by_fd[fd].receive()
                else:
                    os.read(0, 4096)
                    poll.unregister(0)
                    ending = True
    except (OSError, RuntimeError) as failure:
        error = repr(failure)
    waits = [wait for one in connections for wait in one.waits]
    print(json.dumps({"waits": waits, "commands": sum(one.count for one in connections), "error": error}), flush=True)


if __name__ == "__main__":
    if sys.argv[4] == "fill":
        fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[5]), int(sys.argv[6]))
