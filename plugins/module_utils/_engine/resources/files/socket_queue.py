# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits in unix sockets to be read, taken without consuming it (MSG_PEEK with SO_PEEK_OFF; socket(7), Linux 3.4).

images: sk-queues (sk_packet_entry, then the bytes): of a stream one entry for each piece peeked, else one for each datagram;
with its descriptors (scm_entry, by file ids) and, in a field of our own, the credentials of its sender where those are received.
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ...errors import KernelError, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import Entry
from .socket_options import SO_PEEK_OFF, enlarge_buffers

IMAGE = "sk-queues"
SCM_PIDFD = 4
"""linux/socket.h, Linux 6.5: a pidfd of the sender, made at each receipt."""
SCM_MAX_FD = 253
"""net/scm.h."""
_LEAST_BUFFER = 1 << 18
_INT = struct.Struct("=i")
_UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""
_IOVECS = struct.Struct("@PNPN")
"""Two of struct iovec."""
_MSGHDR = struct.Struct("@PI4xPNPNi4x")
"""struct msghdr: name, namelen, iov, iovlen, control, controllen, flags."""
_NO_MEMORY = 1
"""An address that nothing can be mapped at."""
_LABEL = 4096
"""Room for a security label (SCM_SECURITY)."""
_ANCILLARY = socket.CMSG_SPACE(SCM_MAX_FD * _INT.size) + socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(_INT.size) + _LABEL
_PEEK = socket.MSG_PEEK | socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0x40000000)


@dataclass(frozen=True)
class Packet:
    """One message, or one piece of a stream."""

    data: bytes
    rights: tuple[int, ...]
    """Copies of the descriptors that come with it, the caller's to close."""
    ucred: tuple[int, int, int] | None
    """pid, uid and gid of the sender, if the socket receives them."""

    def close(self) -> None:
        """Drop the copies."""
        for local in self.rights:
            os.close(local)


def peek_first(sock: socket.socket) -> list[int]:
    """Return copies of the descriptors that the next read of SOCK would receive; changes nothing of SOCK."""
    try:
        return list(_receive(sock, _size(sock)).rights)
    except BlockingIOError:
        return []


def peek(sock: socket.socket, length: int | None = None) -> list[Packet]:
    """Return all that SOCK can read. LENGTH: bytes in all, needed to tell an empty message from the end of a SOCK_SEQPACKET.

    The tasks that have the socket stand still. KernelError when a message cannot be peeked whole.
    """
    found: list[Packet] = []
    with _peeking(sock):
        try:
            for packet in _packets(sock, length):
                found.append(packet)
        except BaseException:
            for packet in found:
                packet.close()
            raise
    return found


@contextmanager
def _peeking(sock: socket.socket) -> Iterator[None]:
    before = sock.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
    sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, before)


def _packets(sock: socket.socket, length: int | None) -> Iterator[Packet]:
    size, offset = _size(sock), 0
    while True:
        try:
            packet = _receive(sock, size)
        except BlockingIOError:
            return
        if not packet.data and sock.type != socket.SOCK_DGRAM and (sock.type == socket.SOCK_STREAM or offset >= (length or 0)):
            return
        if packet.rights and sock.type == socket.SOCK_STREAM:
            start = _start_of_rights(sock, offset, len(packet.data))
            if start:
                yield Packet(packet.data[:start], (), packet.ucred)
                packet = Packet(packet.data[start:], packet.rights, packet.ucred)
                offset += start
            sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset + len(packet.data))
        offset += len(packet.data)
        yield packet


def _start_of_rights(sock: socket.socket, offset: int, length: int) -> int:
    """Return where in a piece of LENGTH bytes of a stream the write begins that its descriptors came with.

    A peek glues that write to those before it, and whole writes only are copied: into a buffer whose last byte is no memory, all
    but the last one (unix_stream_read_generic of Linux 3.4 to 6.18).
    """
    sock.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)
    room = ctypes.create_string_buffer(length)
    parts = ctypes.create_string_buffer(_IOVECS.pack(ctypes.addressof(room), length - 1, _NO_MEMORY, 1), _IOVECS.size)
    try:
        return syscall("recvmsg", sock.fileno(), _MSGHDR.pack(0, 0, ctypes.addressof(parts), 2, 0, 0, 0), _PEEK)
    except OSError as error:
        if error.errno != errno.EFAULT:  # that write is the only one
            raise
        return 0


def _size(sock: socket.socket) -> int:
    return max(_LEAST_BUFFER, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))


def _receive(sock: socket.socket, size: int) -> Packet:
    """Peek once. BlockingIOError when there is nothing, KernelError when not all of it fits."""
    data, ancillary, flags, _address = sock.recvmsg(size, _ANCILLARY, _PEEK)
    rights: list[int] = []
    ucred: tuple[int, int, int] | None = None
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            rights += [number for (number,) in _INT.iter_unpack(value[: len(value) // _INT.size * _INT.size])]
        elif level == socket.SOL_SOCKET and kind == SCM_PIDFD:
            os.close(_INT.unpack(value)[0])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            ucred = _UCRED.unpack(value)
    packet = Packet(data, tuple(rights), ucred)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        packet.close()
        raise KernelError(f"a message of more than {size} bytes or too many descriptors waits in a unix socket; have the program read it")
    return packet


class QueuesDump:
    """The receive queues of a dump."""

    def __init__(self) -> None:
        self._packets: list[ImageEntry] = []

    def take(self, sock: socket.socket, file_id: int, length: int, rights: Sequence[int]) -> list[Packet]:
        """Keep what SOCK can read, LENGTH bytes, for file FILE_ID; return it, its descriptors closed again.

        RIGHTS: the file ids of the descriptors that wait in it, in their order. The tasks that have the socket stand still.
        """
        packets, rest = peek(sock, length), list(rights)
        for packet in packets:
            packet.close()
            entry = message("sk_packet_entry")(id_for=file_id, length=len(packet.data))
            if packet.rights:
                entry.scm.add(type=socket.SCM_RIGHTS, rights=rest[: len(packet.rights)])
                del rest[: len(packet.rights)]
            if packet.ucred:
                entry.stillframe.pid, entry.stillframe.uid, entry.stillframe.gid = packet.ucred
            self._packets.append(ImageEntry(entry, packet.data))
        if rest or sum(len(packet.rights) for packet in packets) != len(rights):
            raise KernelError(f"the descriptors that wait in unix socket {file_id} have changed; dump again")
        return packets

    def write(self, images: ImagesDir) -> None:
        """Write the image."""
        if self._packets:
            images.write(IMAGE, self._packets)


def read_queues(images: ImagesDir) -> Mapping[int, Sequence[ImageEntry]]:
    """Return the packets by the file id of the socket that is to read them."""
    found: dict[int, list[ImageEntry]] = {}
    for packet in images.entries(IMAGE) if images.has(IMAGE) else []:
        found.setdefault(packet.message.id_for, []).append(packet)
    return found


def fill_queue(sender: socket.socket, packets: Sequence[ImageEntry], files: Mapping[int, int], pids: Collection[int]) -> None:
    """Send PACKETS through SENDER, in the name of who sent them if that is known.

    FILES are our descriptors by file id, PIDS the processes of the tree. RestoreError when the queue does not take them.
    """
    if not packets:
        return
    enlarge_buffers(sender)
    for packet in packets:
        entry = packet.message
        try:
            sent = sender.sendmsg([packet.payload], list(_ancillary(entry, files, pids)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        if sent != len(packet.payload):
            raise RestoreError(
                f"the queue of unix socket {entry.id_for} takes {sent} of {len(packet.payload)} bytes; "
                "raise net.unix.max_dgram_qlen and net.core.wmem_max"
            )


def _ancillary(entry: Entry, files: Mapping[int, int], pids: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
    for scm in entry.scm:
        missing = [file_id for file_id in scm.rights if file_id not in files]
        if scm.type != socket.SCM_RIGHTS or missing:
            raise RestoreError(f"the queue of unix socket {entry.id_for} holds what cannot be sent; use another copy of the dump")
        yield socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [files[file_id] for file_id in scm.rights]).tobytes()
    if entry.HasField("stillframe"):
        sender = entry.stillframe
        pid = sender.pid if sender.pid in pids else os.getpid()
        yield socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _UCRED.pack(pid, sender.uid, sender.gid)
