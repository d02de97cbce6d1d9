# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on the connection between the two ends of a move: whole, unchanged and in their order, or refused.

A frame is a header of 40 bytes (magic, kind, flags, length, number of the frame, checksum), then its body. The checksum covers all
but itself and the magic. A compressed body is one frame of zstd, which says how much it holds. Who the other end is, is for the
connection to know (TLS): this tells accidents from data, no more.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import Union

from ..errors import MoveError
from ..images.checksum import CRC32, Checksummer
from . import compression

HELLO, NEEDS, OBSTACLES, TREE, AREAS, PAGES, ROUND_END, APPLIED = range(1, 9)
IMAGE, DATA, FINAL, READY, COMMIT, RUNNING, ABORT, SETTLE, STATE = range(9, 18)
PROBE, ZEROS, FILE, PART = range(18, 22)
OBJECT, SHARED, HOLES = range(22, 25)
NAMES = tuple(
    """
    hello needs obstacles tree areas pages round-end applied image data final ready commit running abort settle state
    probe zeros file part
    object shared holes
    """.split()
)
LARGEST = 8 << 20
"""Bytes of a body: what either end holds of the other's data at a time."""
_SMALL = 1 << 12
_MAGIC = b"SFmv"
_HEADER = struct.Struct("<4sBB2xIQ16s4x")
_COVERED = struct.Struct("<BBIQ")
_COMPRESSED = 1
"""A flag."""

Part = Union[bytes, bytearray, memoryview]


@dataclass(frozen=True)
class Frame:
    """A frame that came whole; its body is overwritten by the next one."""

    kind: int
    body: memoryview


class Link:
    """One end of a connection. Every wait for the other end ends after TIMEOUT seconds. A context manager."""

    def __init__(self, sock: socket.socket, timeout: float, bandwidth: int = 0) -> None:
        """BANDWIDTH: bytes a second that are sent at most, 0 for no limit."""
        self._socket = sock
        self._bandwidth = bandwidth
        self._checksummer = Checksummer(CRC32)
        self._sent = self._received = 0
        self._buffer = bytearray(1 << 16)
        self._due = 0.0
        self._compress = compression.NONE
        self._choice = compression.Choice()
        self.bytes_sent = 0
        sock.settimeout(timeout)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def use(self, algorithm: str) -> None:
        """Take checksums with ALGORITHM from now on."""
        self._checksummer = Checksummer(algorithm)

    def compress(self, how: str) -> None:
        """Send and take what is large compressed from now on: HOW is none, zstd, or auto, which only the sender need tell apart."""
        self._compress = how

    def wait_at_most(self, timeout: float) -> None:
        """Let every wait end after TIMEOUT seconds from now on."""
        self._socket.settimeout(timeout)

    def send(self, kind: int, *parts: Part) -> None:
        """Send a frame whose body is PARTS, one behind the other. Raises MoveError."""
        body, flags, begin = b"".join(parts) if len(parts) != 1 else parts[0], 0, time.monotonic()
        size = len(body)
        if size > _SMALL and self._compresses():
            smaller = compression.compress(body)
            if len(smaller) < size:
                body, flags = smaller, _COMPRESSED
        header = _HEADER.pack(_MAGIC, kind, flags, len(body), self._sent, self._checksum(kind, flags, self._sent, body))
        self._sent += 1
        self._pace(len(header) + len(body))
        try:
            if len(body) > _SMALL:
                self._socket.sendall(header)
                self._socket.sendall(body)
            else:  # the other end may be gone when it has all of it
                self._socket.sendall(header + bytes(body))
        except OSError as error:
            raise MoveError(f"the connection was lost while sending ({error}); move again when it is sound") from error
        self.bytes_sent += len(header) + len(body)
        if size > _SMALL:
            self._choice.took(size, time.monotonic() - begin)

    def _compresses(self) -> bool:
        return self._compress == compression.ZSTD or (self._compress == compression.AUTO and self._choice.compressing)

    def receive(self) -> Frame:
        """Return the next frame. Raises MoveError for one that is damaged, too large or out of order, and when the other end is gone."""
        header = bytearray(_HEADER.size)
        self._fill(memoryview(header))
        magic, kind, flags, length, number, checksum = _HEADER.unpack(header)
        known = 0 if self._compress == compression.NONE else _COMPRESSED
        if magic != _MAGIC or not 0 < kind <= len(NAMES) or flags & ~known or length > LARGEST or number != self._received:
            raise MoveError("what comes over the connection is no frame of a move; see who is at its other end")
        self._received += 1
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        body = memoryview(self._buffer)[:length]
        self._fill(body)
        if self._checksum(kind, flags, number, body) != checksum:
            raise MoveError(f"frame {number} ({NAMES[kind - 1]}) was changed on its way; move again")
        return Frame(kind, self._decompressed(kind, body) if flags else body)

    def _decompressed(self, kind: int, body: memoryview) -> memoryview:
        try:
            return memoryview(compression.decompress(body, LARGEST))
        except ValueError as error:
            reason = f"a {NAMES[kind - 1]} came that cannot be decompressed ({error}); see who is at the other end"
            raise MoveError(reason) from error

    def expect(self, kind: int) -> memoryview:
        """Return the body of the next frame, which must be of KIND; one that tells of a failure raises MoveError with its reason."""
        frame = self.receive()
        if frame.kind == ABORT and kind != ABORT:
            raise MoveError(bytes(frame.body[:2000]).decode("utf-8", "replace"))
        if frame.kind != kind:
            raise MoveError(f"a {NAMES[frame.kind - 1]} came where a {NAMES[kind - 1]} was due; use the same Stillframe on both hosts")
        return frame.body

    def _fill(self, view: memoryview) -> None:
        while view:
            try:
                got = self._socket.recv_into(view)
            except OSError as error:
                raise MoveError(f"the connection was lost while waiting ({error}); move again when it is sound") from error
            if not got:
                raise MoveError("the other end has closed the connection; see its log")
            view = view[got:]

    def _checksum(self, kind: int, flags: int, number: int, body: Part) -> bytes:
        """Return 16 characters, filled up with zeros."""
        head = self._checksummer.of(_COVERED.pack(kind, flags, len(body), number))
        mine = self._checksummer.of(memoryview(body))
        return f"{int(head, 16) ^ int(mine, 16):016x}".encode()

    def _pace(self, size: int) -> None:
        """Wait until SIZE bytes may be sent."""
        if self._bandwidth:
            now = time.monotonic()
            self._due = max(self._due, now)
            if self._due > now:
                time.sleep(self._due - now)
            self._due += size / self._bandwidth
