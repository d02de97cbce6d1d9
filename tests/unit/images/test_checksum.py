# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums by stretches: of the content as it reads, whatever the holes."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from _engine.images.checksum import CRC32, STRETCH, SUMMED, XXH3_64, Checksummer, available, fastest, is_hole, stretches_of

_XXHASH = pytest.mark.skipif(not available(XXH3_64), reason="no python xxhash here")
ALGORITHMS = [CRC32, CRC32 + SUMMED, pytest.param(XXH3_64, marks=_XXHASH), pytest.param(XXH3_64 + SUMMED, marks=_XXHASH)]


def stretches(path: Path, algorithm: str) -> list:
    with open(path, "rb") as file:
        return list(Checksummer(algorithm).stretches(file.fileno(), os.path.getsize(path)))


def test_crc32_is_zlibs(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    content = os.urandom(STRETCH) + b"tail"
    path.write_bytes(content)
    assert stretches(path, CRC32) == [f"{zlib.crc32(content[:STRETCH]):08x}", f"{zlib.crc32(b'tail'):08x}"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_holes_count_as_zeros(tmp_path: Path, algorithm: str) -> None:
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    size = 3 * STRETCH + 5000
    dense.write_bytes(b"\0" * STRETCH + b"x" + b"\0" * (size - STRETCH - 1))
    with open(sparse, "wb") as file:
        os.pwrite(file.fileno(), b"x", STRETCH)
        file.truncate(size)
    with open(sparse, "rb") as file:
        assert is_hole(file.fileno(), 2 * STRETCH, 3 * STRETCH)
        assert not is_hole(file.fileno(), STRETCH, 2 * STRETCH)
        assert not is_hole(file.fileno(), 3 * STRETCH, 4 * STRETCH)
    assert stretches(dense, algorithm) == stretches(sparse, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_while_writing(tmp_path: Path, algorithm: str) -> None:
    """Stretches taken as the file grows are those of the finished file."""
    path = tmp_path / "pages"
    path.write_bytes(os.urandom(2 * STRETCH + 100))
    checksummer = Checksummer(algorithm)
    with open(path, "rb") as file:
        early = list(checksummer.stretches(file.fileno(), STRETCH))
        late = list(checksummer.stretches(file.fileno(), 2 * STRETCH + 100, first=1))
    assert early + late == stretches(path, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_bit_counts(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(200))

    def whole() -> str:
        with open(path, "rb") as file:
            return Checksummer(algorithm).whole(file.fileno(), 200)

    before = whole()
    for position in range(0, 200, 7):
        content = bytearray(path.read_bytes())
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        assert whole() != before
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
    assert whole() == before


@pytest.mark.parametrize("algorithm", [CRC32, pytest.param(XXH3_64, marks=_XXHASH)])
def test_blank_ranges_count_as_zeros(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "pages"
    content = bytearray(os.urandom(2 * STRETCH))
    path.write_bytes(content)
    start, end = STRETCH - 4096, STRETCH + 8192
    with open(path, "rb") as file:
        blanked = [Checksummer(algorithm).stretch(file.fileno(), 2 * STRETCH, index, [(start, end)]) for index in (0, 1)]
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    assert blanked == stretches(path, algorithm)


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(b"x" * 100)
    with open(path, "rb") as file, pytest.raises(EOFError, match="100"):
        Checksummer(fastest()).stretch(file.fileno(), 200, 0)


def test_stretches_of_a_range() -> None:
    assert list(stretches_of(STRETCH - 1, 2)) == [0, 1]
    assert list(stretches_of(STRETCH, STRETCH)) == [1]
    assert list(stretches_of(0, 0)) == []
