# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The raw bytes that follow some entries of an image, as criu/pipes.c, sk-queue.c, sk-tcp.c, files-reg.c and ipc_ns.c write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable

SEMAPHORE_BYTES = 2


@dataclass(frozen=True)
class Payload:
    """What follows the messages of one name."""

    length: Callable[[Any], int | None]
    """Bytes that follow a message; None when they run to the end of the file."""
    align: int = 1
    """The payload is padded with zero bytes to a multiple of this."""

    def padding(self, length: int) -> int:
        """Return the zero bytes after a payload of LENGTH bytes."""
        return -length % self.align


PAYLOADS: Mapping[str, Payload] = {
    "pipe_data_entry": Payload(lambda pipe: pipe.bytes),
    "sk_packet_entry": Payload(lambda packet: packet.length),
    "tcp_stream_entry": Payload(lambda stream: stream.inq_len + stream.outq_len),
    "ghost_file_entry": Payload(lambda ghost: 0 if ghost.chunks else None),
    "ghost_chunk_entry": Payload(lambda chunk: chunk.len),
    "bpfmap_data_entry": Payload(lambda bpf: bpf.keys_bytes + bpf.values_bytes),
    "ipc_sem_entry": Payload(lambda semaphores: SEMAPHORE_BYTES * semaphores.nsems, align=8),
    "ipc_shm_entry": Payload(lambda segment: 0 if segment.in_pagemaps else segment.size, align=4),
    "ipc_msg": Payload(lambda message: message.msize, align=8),
}
NO_PAYLOAD = Payload(lambda _message: 0)


def ipc_messages(message: Any) -> int:
    """Return how many entries of message `ipc_msg` follow MESSAGE before the next of its own kind: those in its queue."""
    return int(message.qnum) if message.DESCRIPTOR.name == "ipc_msg_entry" else 0
