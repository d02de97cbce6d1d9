# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings of packet sockets that a program has mapped (packet(7), PACKET_RX_RING, PACKET_TX_RING): which of them can be carried.

Their content is the socket's. A new socket begins its rings anew, so what was in them is lost.
images: VMA_AREA_SOCKET, with the id of the socket in vma_entry.shmid.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Optional, Tuple

from ...kernel import procfs
from ...kernel.fdinfo import descriptors
from ...kernel.packet_diag import packet_socket

_BLOCK_SIZE, _BLOCK_NR = 0, 1


def refused(pid: int, area: procfs.Area) -> Optional[Tuple[str, str]]:
    """Return why AREA of PID, which maps a socket, cannot be carried, and what to do; None when it can."""
    sock = packet_socket(area.inode)
    if sock is None:
        return "it is memory of a socket that is no packet socket of this network namespace", "close the socket before the dump"
    size = sum(ring[_BLOCK_SIZE] * ring[_BLOCK_NR] for ring in (sock.rx_ring, sock.tx_ring) if ring)
    if area.end - area.start != size:
        return "it is a part of the rings of a packet socket", "have the program map them whole, with one protection"
    if not _is_open(pid, area.name):
        return "it is the ring of a packet socket that the process has closed", "have the program unmap it"
    return None


def _is_open(pid: int, link: str) -> bool:
    for fd in descriptors(pid):
        with suppress(*procfs.GONE):  # a running task closes others just now
            if os.readlink(f"/proc/{pid}/fd/{fd}") == link:
                return True
    return False
