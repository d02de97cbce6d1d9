# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that keeps writing to a Redis: `client.py PORT KEYS VALUE_BYTES fill|write`.

`fill` sets every key once and ends. `write` sets hot keys anew, and counts in the key "writes", until it is told to end.
SIGTSTP has it finish its batch, hang up, and stop; SIGCONT has it go on.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import time
from contextlib import closing
from typing import Iterable

BATCH = 500
PAUSE = 0.05
"""Seconds between batches."""
HOT = 50
"""One key of so many is written again and again."""

asked_to_stop = False


def command(*words: bytes) -> bytes:
    """Return WORDS in Redis' protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def send(connection: socket.socket, commands: Iterable[bytes]) -> None:
    """Send COMMANDS, each of which is answered in one line, and read the answers."""
    pending = list(commands)
    connection.sendall(b"".join(pending))
    answers = 0
    while answers < len(pending):
        data = connection.recv(1 << 16)
        if not data:
            raise SystemExit("Redis has hung up")
        answers += data.count(b"\n")


def set_key(number: int, size: int) -> bytes:
    """Return the command that sets key NUMBER to a new value of SIZE bytes."""
    return command(b"SET", b"key:%d" % number, os.urandom(size))


def fill(port: int, keys: int, size: int) -> None:
    """Set every key once."""
    with closing(socket.create_connection(("127.0.0.1", port))) as connection:
        for first in range(0, keys, BATCH):
            send(connection, (set_key(number, size) for number in range(first, min(first + BATCH, keys))))


def write(port: int, keys: int, size: int) -> None:
    """Set hot keys until a signal tells to stop."""
    with closing(socket.create_connection(("127.0.0.1", port))) as connection:
        while not asked_to_stop:
            hot = random.choices(range(0, keys, HOT), k=BATCH)
            send(connection, [*(set_key(number, size) for number in hot), command(b"INCRBY", b"writes", b"%d" % BATCH)])
            time.sleep(PAUSE)


def on_stop(*_signal: object) -> None:
    """Note that the client is to stop after this batch."""
    global asked_to_stop
    asked_to_stop = True


def main() -> None:
    """Do what the command line says."""
    global asked_to_stop
    port, keys, size = map(int, sys.argv[1:4])
    if sys.argv[4] == "fill":
        fill(port, keys, size)
        return
    signal.signal(signal.SIGTSTP, on_stop)
    while True:
        write(port, keys, size)
        asked_to_stop = False
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    main()
