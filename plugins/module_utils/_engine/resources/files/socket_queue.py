# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits in unix sockets to be read, taken without consuming it (MSG_PEEK with SO_PEEK_OFF; socket(7), Linux 3.4).

images: sk-queues (sk_packet_entry, then the bytes): of a stream one entry for each piece peeked, else one for each datagram.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from ...errors import KernelError, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import message
from .socket_options import SO_PEEK_OFF, enlarge_buffers

IMAGE = "sk-queues"
_LEAST_BUFFER = 1 << 18


class QueuesDump:
    """The receive queues of a dump."""

    def __init__(self) -> None:
        self._packets: list[ImageEntry] = []

    def take(self, sock: socket.socket, file_id: int, ended: bool) -> None:
        """Keep what SOCK can read, for file FILE_ID. ENDED: it reads the end of file when its queue is empty.

        The task that owns the socket stands still. KernelError when a datagram is too big to be read.
        """
        before = sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        size = max(_LEAST_BUFFER, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
        sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        try:
            for data in _peek(sock, size, ended):
                packet = message("sk_packet_entry")(id_for=file_id, length=len(data))
                self._packets.append(ImageEntry(packet, data))
        finally:
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, before)

    def write(self, images: ImagesDir) -> None:
        """Write the image."""
        if self._packets:
            images.write(IMAGE, self._packets)


def _peek(sock: socket.socket, size: int, ended: bool) -> Sequence[bytes]:
    found: list[bytes] = []
    while True:
        try:
            data, _ancillary, flags, _address = sock.recvmsg(size, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return found
        if flags & socket.MSG_TRUNC:
            raise KernelError(f"a datagram of more than {size} bytes waits in a unix socket; have the program read it before the dump")
        if not data and (ended or sock.type == socket.SOCK_STREAM):
            return found
        found.append(data)


def read_queues(images: ImagesDir) -> Mapping[int, Sequence[ImageEntry]]:
    """Return the packets by the file id of the socket that is to read them."""
    found: dict[int, list[ImageEntry]] = {}
    for packet in images.entries(IMAGE) if images.has(IMAGE) else []:
        found.setdefault(packet.message.id_for, []).append(packet)
    return found


def fill_queue(sender: socket.socket, packets: Sequence[ImageEntry]) -> None:
    """Send PACKETS through SENDER. RestoreError when the queue does not take them."""
    if not packets:
        return
    enlarge_buffers(sender)
    for packet in packets:
        try:
            sent = sender.send(packet.payload, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        if sent != len(packet.payload):
            raise RestoreError(
                f"the queue of unix socket {packet.message.id_for} takes {sent} of {len(packet.payload)} bytes; "
                "raise net.unix.max_dgram_qlen and net.core.wmem_max"
            )
