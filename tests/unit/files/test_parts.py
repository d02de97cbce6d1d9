# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of dumping files that need no other process."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from _engine.images.schema import enum, message
from _engine.resources.files.build_id import build_id, from_words, to_words
from _engine.resources.files.epoll import event
from _engine.resources.files.registry import KINDS
from _engine.resources.files.status import for_open
from _engine.resources.files.unix_address import display


def test_every_kind_has_its_place_in_the_schema() -> None:
    fields = {field.name: field for field in message("file_entry").DESCRIPTOR.fields}
    assert all(kind.type in enum("fd_types") and fields[kind.field].message_type for kind in KINDS)
    assert len({kind.type for kind in KINDS}) == len(KINDS)


def elf(bits: int, order: str, notes: bytes) -> bytes:
    """An ELF file of one segment that holds NOTES."""
    ident = b"\x7fELF" + bytes([1 if bits == 32 else 2, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 32:
        header = struct.pack(order + "HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        program = struct.pack(order + "IIIIIIII", 4, 84, 0, 0, len(notes), len(notes), 4, 4)
    else:
        header = struct.pack(order + "HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        program = struct.pack(order + "IIQQQQQQ", 4, 4, 120, 0, 0, len(notes), len(notes), 4)
    return ident + header + program + notes


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_build_id_is_found_among_the_notes(tmp_path: Path, bits: int, order: str) -> None:
    other = struct.pack(order + "III", 4, 5, 1) + b"GNU\0" + b"other\0\0\0"
    wanted = struct.pack(order + "III", 4, 20, 3) + b"GNU\0" + bytes(range(20))
    (tmp_path / "elf").write_bytes(elf(bits, order, other + wanted))
    fd = os.open(tmp_path / "elf", os.O_RDONLY)
    assert build_id(fd) == bytes(range(20))
    os.close(fd)


FAR = struct.pack("<Q", (1 << 64) - 64)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"#!/bin/sh", b"\x7fELF", elf(64, "<", b""), elf(64, "<", b"\4\0\0\0\xff\xff\xff\xff\3\0\0\0")),
        elf(64, "<", b"")[:32] + FAR + elf(64, "<", b"")[40:],
        elf(64, "<", b"")[:72] + FAR + elf(64, "<", b"")[80:],
    ],
)
def test_what_has_no_build_id(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    assert build_id(fd) == b""
    os.close(fd)


def test_the_build_id_of_python_is_the_one_that_file_tells() -> None:
    fd = os.open(os.path.realpath(sys.executable), os.O_RDONLY)
    found = build_id(fd)
    os.close(fd)
    try:
        told = subprocess.run(["readelf", "-n", os.path.realpath(sys.executable)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("there is no readelf")
    assert f"Build ID: {found.hex()}" in told


def test_build_ids_in_words() -> None:
    assert from_words(to_words(bytes(range(20)))) == bytes(range(20))
    assert from_words(to_words(b"12345")) == b"12345\0\0\0"


def test_flags_for_opening_again() -> None:
    temporary = for_open(os.O_RDWR | os.O_TMPFILE)
    assert temporary & os.O_ACCMODE == os.O_RDWR and not temporary & os.O_TMPFILE
    assert for_open(os.O_DIRECTORY) & os.O_DIRECTORY
    assert not for_open(os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_EXCL) & (os.O_CREAT | os.O_TRUNC | os.O_EXCL)


def test_names_for_people() -> None:
    assert display(b"/run/a.sock\0") == "/run/a.sock" and display(b"\0a\0b") == "@a@b" and display(b"") == ""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="struct epoll_event is packed on x86-64 alone")
def test_an_epoll_event_is_packed() -> None:
    assert event(0x80000001, 0x0102030405060708) == bytes.fromhex("01000080 0807060504030201")
