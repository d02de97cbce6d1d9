# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A victim with a bit of everything, which tells what it holds when asked: `menagerie.py FOLDER`.

Threads that count, private memory, anonymous memory shared with a child, an epoll that watches an eventfd and a timerfd, a
socket pair to the child. It writes its PID to FOLDER/pid and then answers one word at a time on the unix socket FOLDER/ask:
"tell" with all that a restore must bring back, "change" by changing a part of each memory, "work" by using every descriptor.
The answer is JSON.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

PRIVATE, SHARED, CHANGED = 16 << 20, 4 << 20, 512 << 10
EVENT, ALARM = 7, 3600
"""What is in the eventfd; seconds until the timer goes off."""
_libc = ctypes.CDLL(None, use_errno=True)


def timer() -> int:
    """Return a timerfd that goes off in ALARM seconds, and then each second."""
    descriptor: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
    _libc.timerfd_settime(descriptor, 0, struct.pack("<4q", 1, 0, ALARM, 0), None)
    return descriptor


def remaining(descriptor: int) -> int:
    """Return the seconds until the timer goes off."""
    now = ctypes.create_string_buffer(32)
    _libc.timerfd_gettime(descriptor, now)
    return int(struct.unpack("<4q", now.raw)[2])


def child(line: socket.socket, shared: mmap.mmap) -> None:
    """Answer each word with the digest of the shared memory as the child sees it; "change" changes it first."""
    while word := line.recv(16):
        if word == b"change":
            shared[CHANGED : 2 * CHANGED] = os.urandom(CHANGED)
        line.send(hashlib.sha256(shared).hexdigest().encode())
    os._exit(0)


class Menagerie:
    """All that is kept."""

    def __init__(self) -> None:
        self.generation = 0
        self.counts = [0, 0, 0]
        self.private = mmap.mmap(-1, PRIVATE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.private[: PRIVATE // 2] = os.urandom(PRIVATE // 2)
        self.shared = mmap.mmap(-1, SHARED)
        self.shared[:] = os.urandom(SHARED)
        self.event: int = _libc.eventfd(EVENT, os.O_NONBLOCK)
        self.timer = timer()
        self.epoll = select.epoll()
        self.epoll.register(self.event, select.EPOLLIN)
        self.epoll.register(self.timer, select.EPOLLIN | select.EPOLLET)
        self.line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self.line.close()
            child(other, self.shared)
        other.close()

    def count(self, which: int) -> None:
        """Count, for ever."""
        while True:
            self.counts[which] += 1
            time.sleep(0.005)

    def tell(self) -> dict[str, Any]:
        """Say what must be the same after a restore, and what may only have grown."""
        self.line.send(b"tell")
        return {
            "generation": self.generation,
            "private": hashlib.sha256(self.private).hexdigest(),
            "shared": hashlib.sha256(self.shared).hexdigest(),
            "of the child": self.line.recv(100).decode(),
            "counts": list(self.counts),
        }

    def change(self) -> dict[str, Any]:
        """Change a part of each memory: write some, give some back to the kernel."""
        self.generation += 1
        at = self.generation * CHANGED
        self.private[at : at + CHANGED] = os.urandom(CHANGED)
        self.private.madvise(mmap.MADV_DONTNEED, at + CHANGED, CHANGED)
        self.private[PRIVATE // 2 + at : PRIVATE // 2 + at + CHANGED] = os.urandom(CHANGED)
        self.line.send(b"change")
        self.line.recv(100)
        return self.tell()

    def work(self) -> dict[str, Any]:
        """Use every descriptor, and see whether the threads still count."""
        before = list(self.counts)
        ready = [fd for fd, _events in self.epoll.poll(0)]
        (value,) = struct.unpack("<Q", os.read(self.event, 8))
        idle = self.epoll.poll(0)
        os.write(self.event, struct.pack("<Q", value))
        deadline = time.monotonic() + 10
        while any(now <= then for now, then in zip(self.counts, before)) and time.monotonic() < deadline:
            time.sleep(0.005)
        return {
            "ready": [fd == self.event for fd in ready],
            "value": value,
            "idle": idle,
            "counting": [now > then for now, then in zip(self.counts, before)],
            "alarm": 0 < remaining(self.timer) <= ALARM,
        }


WORKING = {"ready": [True], "value": EVENT, "idle": [], "counting": [True] * 3, "alarm": True}
"""What `work` answers when all is well."""


def main() -> None:
    """Answer until killed."""
    folder = Path(sys.argv[1])
    kept = Menagerie()
    for which in range(len(kept.counts)):
        threading.Thread(target=kept.count, args=(which,), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "ask"))
        listener.listen()
        (folder / "new").write_text(str(os.getpid()))
        (folder / "new").rename(folder / "pid")
        while True:
            connection, _address = listener.accept()
            with connection:
                answer = {"tell": kept.tell, "change": kept.change, "work": kept.work}[connection.recv(16).decode()]()
                connection.sendall(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
