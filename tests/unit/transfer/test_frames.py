# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames come as they were sent, compressed or not, or are refused; a hostile one takes no memory."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from _engine.errors import MoveError, UsageError
from _engine.images.checksum import CRC32, Checksummer
from _engine.transfer import compression, greeting, wire
from _engine.transfer.compression import AUTO, NONE, ZSTD, Choice
from _engine.transfer.wire import LARGEST, PAGES, Link

_SESSION = "5210e903-2fce-4232-98cb-6cb5ea488568"
_PLAIN = b"stillframe " * 100_000
needs_zstd = pytest.mark.skipif(not compression.available(), reason="no zstandard here")


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """Return both ends of a connection."""
    one, other = socket.socketpair()
    with Link(one, 5) as here, Link(other, 5) as there:
        yield here, there


def take(link: Link) -> tuple[threading.Thread, list[Any]]:
    """Receive a frame in another thread; return that, and where the body or the error will be."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(bytes(link.receive().body))
        except MoveError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, found


def sent(here: Link, there: Link, *parts: bytes) -> Any:
    """Return what comes THERE of PARTS."""
    thread, found = take(there)
    here.send(PAGES, *parts)
    thread.join()
    return found[0]


def raw(body: bytes, flags: int = 1, length: int = -1, kind: int = PAGES, number: int = 0) -> bytes:
    """Return a frame with BODY whose checksum is right, whatever else is wrong."""
    length = len(body) if length < 0 else length
    of = Checksummer(CRC32).of
    checksum = int(of(struct.pack("<BBIQ", kind, flags, length, number)), 16) ^ int(of(body), 16)
    return struct.pack("<4sBB2xIQ16s4x", b"SFmv", kind, flags, length, number, f"{checksum:016x}".encode()) + body


def refused(ends: tuple[Link, Link], frame: bytes) -> str:
    """Return why FRAME is refused."""
    thread, found = take(ends[1])
    ends[0]._socket.sendall(frame)
    ends[0].close()
    thread.join()
    assert isinstance(found[0], MoveError), found
    return str(found[0])


@pytest.mark.parametrize("how", [NONE, pytest.param(ZSTD, marks=needs_zstd), pytest.param(AUTO, marks=needs_zstd)])
def test_what_is_sent_comes(ends: tuple[Link, Link], how: str) -> None:
    for link in ends:
        link.compress(how)
    for parts in ((_PLAIN,), (b"", _PLAIN, b"x"), (b"",), (b"small",), (os.urandom(1 << 20),), (bytes(LARGEST),)):
        assert sent(*ends, *parts) == b"".join(parts)


@needs_zstd
def test_what_becomes_no_smaller_is_sent_as_it_is(ends: tuple[Link, Link]) -> None:
    for link in ends:
        link.compress(ZSTD)
    sent(*ends, _PLAIN)
    assert ends[0].bytes_sent < len(_PLAIN) / 100
    before, random = ends[0].bytes_sent, os.urandom(1 << 20)
    sent(*ends, random)
    assert ends[0].bytes_sent - before == len(random) + 40


def test_each_changed_byte_is_found() -> None:
    body = os.urandom(50)
    for at in (0, 4, 5, 8, 12, 20, 39, 40, 60, 89):
        frame = bytearray(raw(body, flags=0))
        if at in (36, 37, 38, 39):
            continue  # filling
        frame[at] ^= 1
        one, other = socket.socketpair()
        with Link(one, 5) as here, Link(other, 5) as there:
            assert refused((here, there), bytes(frame))


@pytest.mark.parametrize(
    "frame",
    [
        raw(b"x", flags=0, number=1),
        raw(b"x", flags=0, kind=len(wire.NAMES) + 1),
        raw(b"x", flags=0, kind=0),
        raw(b"x", flags=0, length=LARGEST + 1),
        raw(b"x", flags=0, length=(1 << 32) - 1),
        raw(b"x", flags=2),
        b"GET / HTTP/1.1\r\n\r\n".ljust(40, b"x"),
    ],
)
def test_what_is_no_frame(ends: tuple[Link, Link], frame: bytes) -> None:
    assert "no frame of a move" in refused(ends, frame)


def test_nothing_compressed_is_taken_that_was_not_agreed_on(ends: tuple[Link, Link]) -> None:
    assert "no frame of a move" in refused(ends, raw(b"anything"))


@needs_zstd
@pytest.mark.parametrize("what", ["bomb", "unsaid", "garbage", "cut", "more", "lies"])
def test_a_hostile_frame_takes_no_memory(ends: tuple[Link, Link], what: str) -> None:
    zstandard = pytest.importorskip("zstandard")
    gigabyte = zstandard.ZstdCompressor().compress(bytes(1 << 30)) if what in ("bomb", "lies") else b""
    body = {
        "bomb": gigabyte,
        "unsaid": zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20)),
        "garbage": os.urandom(1 << 16),
        "cut": zstandard.ZstdCompressor().compress(os.urandom(1 << 16))[:-100],
        "more": zstandard.ZstdCompressor().compress(bytes(LARGEST + 1)),
        "lies": gigabyte[:5] + struct.pack("<I", 1 << 20) + gigabyte[9:],  # the size in the header (RFC 8878, 3.1.1.1)
    }[what]
    ends[1].compress(ZSTD)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "cannot be decompressed" in refused(ends, raw(body))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def greeted(source: str, ends: tuple[Link, Link]) -> tuple[Any, str]:
    """Let both ENDS agree, the source wanting SOURCE; return the error, and how the destination takes frames."""
    found: list[Any] = []

    def destination() -> None:
        frame = ends[1].receive()
        found.append(greeting.answer(ends[1], frame.body))

    thread = threading.Thread(target=destination)
    thread.start()
    error: Any = None
    try:
        greeting.greet(ends[0], _SESSION, source)
    except (MoveError, UsageError) as raised:
        error = raised
        ends[0].close()
    thread.join()
    return error, ends[1]._compress


@needs_zstd
def test_both_ends_agree(ends: tuple[Link, Link]) -> None:
    assert greeted(AUTO, ends) == (None, ZSTD) and ends[0]._compress == AUTO
    assert sent(*ends, _PLAIN) == _PLAIN


@pytest.mark.parametrize(("how", "fails"), [(NONE, False), (AUTO, False), (ZSTD, True)])
def test_an_end_without_the_library(ends: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch, how: str, fails: bool) -> None:
    answers = iter([False, False]) if how == AUTO or not compression.available() else iter([True, False])
    monkeypatch.setattr(compression, "available", lambda: next(answers, False))
    error, there = greeted(how, ends)
    assert bool(error) == fails and there == NONE and (fails or ends[0]._compress == NONE)
    assert not fails or "zstandard" in str(error)


def test_auto_goes_the_quicker_way() -> None:
    def settled(plain: float, compressed: float, much: int = 48) -> Choice:
        """Return a choice that MUCH MiB have gone, at so many MiB a second each way."""
        choice = Choice()
        for _step in range(much):
            choice.took(1 << 20, 1 / (compressed if choice.compressing else plain))
        return choice

    assert settled(10, 100).compressing and not settled(1000, 300).compressing
    assert settled(10, 100, 20).compressing and settled(1000, 300, 20).compressing, "the other way is tried"
    changed = settled(10, 100)
    for _step in range(600):
        changed.took(1 << 20, 0.001 if not changed.compressing else 0.01)
    assert not changed.compressing, "a link that has become quick"
