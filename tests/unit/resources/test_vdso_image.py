# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader of a vDSO's symbols against images that lie, and the code that takes the place of its functions."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import time
from typing import Any, Dict, List, Optional, Tuple

import pytest

from _engine.errors import KernelError
from _engine.kernel import procfs
from _engine.resources.memory.vdso_image import read_image
from _engine.resources.memory.vdso_mark import NOWHERE, Mark
from _engine.tracee.arch import x86_64 as arch

DYNAMIC, STRINGS, SYMBOLS, HASH, NOTE, CODE = 0x100, 0x200, 0x300, 0x400, 0x500, 0x800
SIZE = 0x1000
NAMES = ("__vdso_time", "time", "__vdso_getcpu")
BUILD = b"build of a test"


def made(gnu: bool = False, dynamic: Optional[Dict[int, int]] = None, header: Tuple[int, bytes] = (0, b"")) -> bytes:
    """Return a vDSO; DYNAMIC replaces entries of its dynamic section, HEADER puts bytes at an offset."""
    image = bytearray(SIZE)
    struct.pack_into("<16s2HI3QI6H", image, 0, b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    for index, (kind, offset, size) in enumerate(((1, 0, SIZE), (2, DYNAMIC, 0x100), (4, NOTE, 0x40))):
        struct.pack_into("<2I6Q", image, 64 + 56 * index, kind, 5, offset, offset, offset, size, size, 8)
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in NAMES)
    image[STRINGS : STRINGS + len(strings)] = strings
    offsets = (CODE, CODE, CODE + 64)
    for index, (name, offset) in enumerate(zip(NAMES, offsets), start=1):
        at = strings.index(b"\0" + name.encode() + b"\0") + 1
        struct.pack_into("<I2BH2Q", image, SYMBOLS + 24 * index, at, 0x12, 0, 9, offset, 32)
    entries = {5: STRINGS, 6: SYMBOLS, 10: len(strings), 11: 24, **({0x6FFFFEF5: HASH} if gnu else {4: HASH}), **(dynamic or {})}
    struct.pack_into(f"<{2 * len(entries)}Q", image, DYNAMIC, *(word for entry in entries.items() for word in entry))
    table: List[int] = [1, 1, 1, 0, 0, 0, 1, 2, 4, 7] if gnu else [1, 4, 1, 0, 0, 0, 0]
    struct.pack_into(f"<{len(table)}I", image, HASH, *table)
    struct.pack_into("<3I4s", image, NOTE, 4, len(BUILD), 3, b"GNU\0")
    image[NOTE + 16 : NOTE + 16 + len(BUILD)] = BUILD
    image[header[0] : header[0] + len(header[1])] = header[1]
    return bytes(image)


@pytest.mark.parametrize("gnu", [False, True])
def test_what_it_says(gnu: bool) -> None:
    image = read_image(made(gnu))
    assert image.offsets() == {"__vdso_time": CODE, "time": CODE, "__vdso_getcpu": CODE + 64}
    assert image.build_id == BUILD


def test_that_of_this_kernel() -> None:
    area = next((area for area in procfs.maps(os.getpid()) if area.name == "[vdso]"), None)
    if area is None:
        pytest.skip("this kernel gives no vDSO")
    assert {"__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"} <= set(
        read_image(procfs.read_memory(area and os.getpid(), area.start, area.end - area.start)).offsets()
    )


FAR = (1 << 64) - 8


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\x7fELF",
        bytes(SIZE),
        made()[:0x480],
        made(header=(4, b"\x01")),
        made(header=(32, struct.pack("<Q", FAR))),
        made(header=(32, struct.pack("<Q", SIZE - 56))),
        made(header=(54, struct.pack("<2H", 0, 0xFFFF))),
        made(header=(54, struct.pack("<2H", 56, 0xFFFF))),
        made(header=(54, struct.pack("<2H", 56, 0))),
        made(header=(64 + 56 + 8, struct.pack("<Q", FAR))),
        made(header=(64 + 56 + 32, struct.pack("<Q", FAR))),
        made(header=(64 + 16, struct.pack("<Q", FAR))),
        made(header=(64 + 2 * 56 + 32, struct.pack("<Q", 1 << 62))),
        made(dynamic={5: FAR}),
        made(dynamic={6: FAR}),
        made(dynamic={6: SIZE - 24}),
        made(dynamic={10: 1 << 40}),
        made(dynamic={10: 4}),
        made(dynamic={11: 16}),
        made(dynamic={4: FAR}),
        made(dynamic={4: SIZE}),
        made(header=(HASH + 4, struct.pack("<I", 0xFFFFFFFF))),
        made(True, header=(HASH, struct.pack("<I", 0xFFFFFFFF))),
        made(True, header=(HASH + 8, struct.pack("<I", 0xFFFFFFFF))),
        made(True, header=(HASH + 24, struct.pack("<I", 0xFFFFFFF0))),
        made(True, header=(HASH + 28, struct.pack("<3I", 2, 4, 6)), dynamic={6: SIZE - 96}),
        made(header=(SYMBOLS + 24, struct.pack("<I", 0xFFFFFFFF))),
        made(header=(SYMBOLS + 24 + 8, struct.pack("<Q", SIZE))),
        made(header=(SYMBOLS + 24 + 8, struct.pack("<Q", FAR))),
    ],
)
def test_what_lies(image: bytes) -> None:
    with pytest.raises(KernelError, match="damaged"):
        read_image(image)


def test_noise() -> None:
    chance = random.Random(3)
    for _time in range(2000):
        image = bytearray(made(chance.random() < 0.5))
        for _place in range(chance.randrange(1, 6)):
            image[chance.randrange(0x600)] = chance.randrange(256)
        try:
            found = read_image(bytes(image))
        except KernelError:
            continue
        assert all(0 <= offset < SIZE for offset in found.offsets().values())


@pytest.fixture
def code() -> mmap.mmap:
    """Memory for code."""
    return mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)


def function(code: mmap.mmap, content: bytes) -> Any:
    """Return CONTENT, put into CODE, as a function."""
    code[: len(content)] = content
    return ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_void_p] * 5)(ctypes.addressof(ctypes.c_char.from_buffer(code)))


def test_system_calls_in_place_of_functions(code: mmap.mmap) -> None:
    spec = (ctypes.c_long * 2)()
    assert function(code, arch.vdso_call("__vdso_clock_gettime"))(time.CLOCK_MONOTONIC, ctypes.addressof(spec), 0, 0, 0) == 0
    assert abs(spec[0] - time.monotonic()) < 60
    assert abs(function(code, arch.vdso_call("time"))(None, 0, 0, 0, 0) - time.time()) < 60
    buffer = ctypes.create_string_buffer(64)
    random_bytes = function(code, arch.vdso_call("__vdso_getrandom"))
    assert random_bytes(ctypes.addressof(buffer), 64, 0, ctypes.addressof(buffer), 144) == 64 and any(buffer.raw)
    assert random_bytes(0, 0, 0, ctypes.addressof(buffer), (1 << 64) - 1) == -38
    assert function(code, arch.vdso_call("__vdso_sgx_enter_enclave"))(0, 0, 0, 0, 0) == -38


def test_a_jump(code: mmap.mmap) -> None:
    target = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_void_p] * 5)(lambda a, b, c, d, e: a + b + c + d + e)
    address = ctypes.cast(target, ctypes.c_void_p).value or 0
    assert function(code, arch.vdso_jump(address))(1, 2, 3, 4, 5) == 15


def test_areas_without_those_of_the_kernel() -> None:
    areas = [
        procfs.Area(0x1000, 0x9000, "r-xp", 0, "00:00", 0, ""),
        procfs.Area(0x20000, 0x24000, "r--p", 0, "00:00", 0, "[vvar]"),
        procfs.Area(0x24000, 0x26000, "r-xp", 0, "00:00", 0, "[vdso]"),
    ]
    found = [(area.start, area.end) for area in Mark(0x3000, NOWHERE, 0x20000).own(areas)]
    assert found == [(0x1000, 0x3000), (0x3000, 0x9000)]
