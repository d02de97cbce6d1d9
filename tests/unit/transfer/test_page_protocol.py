# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes over the wire to a page server, and what is taken for nonsense."""

from __future__ import annotations

import random
import struct
import uuid

import pytest
from _engine.errors import TransferError
from _engine.images.pagemap import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT
from _engine.transfer import page_protocol as wire
from _engine.transfer.page_protocol import Request

IOV = struct.Struct("<IIQQQ")
"""As the compiler lays out struct page_server_iov on x86-64."""
TASK, SHARED = 4711 << 8 | 1, 99 << 8 | 2


@pytest.mark.parametrize(
    "request_",
    [
        Request(wire.PS_IOV_ADD_F, "pagemap-4711", 0x7F0000000000, 256),
        Request(wire.PS_IOV_ADD_F, "pagemap-shmem-99", 0, 1, in_parent=True),
        Request(wire.PS_IOV_OPEN2, "pagemap-1", dump_id=str(uuid.uuid4())),
        Request(wire.PS_IOV_PARENT, "pagemap-1"),
        Request(wire.PS_IOV_CLOSE),
    ],
)
def test_what_is_sent_is_what_is_read(request_: Request) -> None:
    assert len(wire.encode(request_)) == wire.SIZE == IOV.size
    assert wire.decode(wire.encode(request_)) == request_


def test_it_is_what_criu_sends_and_reads() -> None:
    assert wire.encode(Request(wire.PS_IOV_ADD_F, "pagemap-4711", 0x1000, 3)) == IOV.pack(PE_PRESENT << 16 | 6, 0, 3, 0x1000, TASK)
    assert wire.encode(Request(wire.PS_IOV_OPEN2, "pagemap-shmem-99")) == IOV.pack(4, 0, 0, 0, SHARED)
    assert wire.encode(Request(wire.PS_IOV_FORCE_CLOSE)) == IOV.pack(0x1024, 0, 0, 0, 0)
    assert wire.decode(IOV.pack(wire.PS_IOV_ADD, 7, 3, 0x1000, TASK)) == Request(wire.PS_IOV_ADD, "pagemap-4711", 0x1000, 3)
    assert wire.decode(IOV.pack(wire.PS_IOV_HOLE, 0, 3, 0x1000, SHARED)).in_parent
    assert not wire.decode(IOV.pack((PE_PRESENT | PE_LAZY) << 16 | 6, 0, 3, 0x1000, TASK)).in_parent
    assert wire.decode(IOV.pack(wire.PS_IOV_OPEN, 0, 0, 0, 4711 << 8 | 11)).image == "pagemap-4711", "as CRIU 3.0 had it"


@pytest.mark.parametrize(
    ("word", "pages", "start", "destination"),
    [
        (0, 0, 0, TASK),
        (8, 1, 0x1000, TASK),
        (0xFFFFFFFF, 1, 0x1000, TASK),
        (wire.PS_IOV_GET, 1, 0x1000, TASK),
        (1 << 16 | wire.PS_IOV_OPEN2, 0, 0, TASK),
        (wire.PS_IOV_ADD_F, 1, 0x1000, TASK),  # neither here nor in the parent
        (PE_LAZY << 16 | wire.PS_IOV_ADD_F, 1, 0x1000, TASK),
        ((PE_PARENT | PE_PRESENT) << 16 | wire.PS_IOV_ADD_F, 1, 0x1000, TASK),
        (PE_PRESENT << 16 | wire.PS_IOV_ADD_F, 0, 0x1000, TASK),
        (PE_PRESENT << 16 | wire.PS_IOV_ADD_F, 1, 0x1001, TASK),
        (PE_PRESENT << 16 | wire.PS_IOV_ADD_F, 1 << 52, PAGE_SIZE, TASK),
        (PE_PRESENT << 16 | wire.PS_IOV_ADD_F, (1 << 64) - 1, PAGE_SIZE, TASK),
        (wire.PS_IOV_OPEN2, 0, 0, 0),
        (wire.PS_IOV_OPEN2, 0, 0, 1),  # no process is 0
        (wire.PS_IOV_OPEN2, 0, 0, (1 << 23) << 8 | 1),
        (wire.PS_IOV_OPEN2, 0, 0, 4711 << 8 | 3),
        (int.from_bytes(b"GET ", "little"), 1, 0x1000, TASK),
    ],
)
def test_nonsense_is_refused(word: int, pages: int, start: int, destination: int) -> None:
    with pytest.raises(TransferError, match=";"):
        wire.decode(IOV.pack(word, 0, pages, start, destination))


def test_noise_is_refused_or_makes_sense() -> None:
    chance = random.Random(4711)
    for _time in range(2000):
        word = chance.choice((*range(9), 0x1023, 0x1024)) | chance.choice((0, 0, 1, 2, 4, 5, 6, 7, 0xFFFF)) << 16
        destination = chance.getrandbits(chance.choice((8, 24, 64)))
        try:
            request = wire.decode(IOV.pack(word, 0, chance.getrandbits(chance.choice((4, 64))), chance.getrandbits(52) << 12, destination))
        except TransferError:
            continue
        assert request.command in (*wire.ADDS, *wire.OPENS, *wire.CLOSES, wire.PS_IOV_PARENT)
        assert request.end <= 1 << 64 and request.start % PAGE_SIZE == 0
        assert request.image.startswith("pagemap-") or request.command in wire.CLOSES
