# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Has the rings of a packet socket on the loopback interface mapped. For each line that comes it tells what frames hold, and frees them.

"unmap": half of the rings, "close": the socket.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
from contextlib import suppress

ETHERTYPE = 0x88B5
"""For local experiments (IEEE 802)."""
SOL_PACKET, PACKET_RX_RING, PACKET_VERSION, PACKET_TX_RING = 263, 5, 10, 13
TPACKET_V2, TP_STATUS_USER = 1, 1
BLOCK, BLOCKS, FRAME = 4096, 4, 1024
HEADER = struct.Struct("=IIIHH")  # the head of struct tpacket2_hdr: status, len, snaplen, mac, net


def main(directory: str) -> None:
    """Serve for ever; DIRECTORY has the named pipes "ask" and "answer"."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    sock.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
    ring = struct.pack("4I", BLOCK, BLOCKS, FRAME, BLOCK * BLOCKS // FRAME)
    sock.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)
    sock.setsockopt(SOL_PACKET, PACKET_TX_RING, ring)
    memory = mmap.mmap(sock.fileno(), 2 * BLOCK * BLOCKS)
    sock.bind(("lo", ETHERTYPE))
    asks, answers = (os.open(f"{directory}/{name}", os.O_RDWR) for name in ("ask", "answer"))
    os.write(answers, b"ready\n")
    for line in os.fdopen(asks, "rb", buffering=0):
        if line == b"close\n":
            link = os.readlink(f"/proc/self/fd/{sock.fileno()}")
            for fd in [int(name) for name in os.listdir("/proc/self/fd")]:  # mmap has a descriptor of its own
                with suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{fd}") == link:
                        os.close(fd)
        elif line == b"unmap\n":
            half = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + BLOCK * BLOCKS
            ctypes.CDLL(None).munmap(ctypes.c_void_p(half), ctypes.c_size_t(BLOCK * BLOCKS))
        os.write(answers, (" ".join(sorted(frames(memory))) or "nothing").encode() + b"\n")


def frames(memory: mmap.mmap) -> list[str]:
    """Return what the frames of the receiving ring in MEMORY hold, and free them."""
    found = []
    for at in range(0, BLOCK * BLOCKS, FRAME):
        status, length, _snaplen, _mac, net = HEADER.unpack_from(memory, at)
        if status & TP_STATUS_USER:
            found.append(memory[at + net : at + net + length].decode())
            memory[at : at + 4] = bytes(4)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
