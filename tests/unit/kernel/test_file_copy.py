# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of files: whole, brought up to date, with their holes; and what a manifest may say of kept ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from _engine.images.kept import Kept, KeptDirectory, KeptFile, kept_from, kept_names, remove_kept
from _engine.kernel.file_copy import begin_alike, copy_file, renew

MIB = 1 << 20
Pair = tuple[int, int]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """An empty file and one that is to be its copy."""
    opened = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("source", "target")]
    yield opened[0], opened[1]
    for fd in opened:
        os.close(fd)


def content(fd: int) -> bytes:
    """Return all that FD has."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_holes_stay(pair: Pair) -> None:
    source, target = pair
    os.pwrite(target, bytes(range(256)) * 64, 0)
    os.pwrite(source, b"data", 8 * MIB)
    os.ftruncate(source, 32 * MIB)
    copied = copy_file(source, target)
    assert copied < MIB and content(target) == content(source)
    assert os.fstat(target).st_blocks * 512 < MIB
    os.ftruncate(source, 64 * MIB)
    assert renew(source, target) == 0
    assert os.fstat(target).st_size == 64 * MIB and os.fstat(target).st_blocks * 512 < MIB


@pytest.mark.parametrize("size", [0, 5, 3 * MIB, 3 * MIB + 7, 5 * MIB])
def test_only_what_differs_is_written(pair: Pair, size: int) -> None:
    source, target = pair
    os.pwrite(source, os.urandom(4 * MIB), 0)
    copy_file(source, target)
    assert begin_alike(source, target, 4 * MIB)
    os.pwrite(source, b"anew", 2 * MIB - 2)
    assert not begin_alike(source, target, 4 * MIB) and begin_alike(source, target, 2 * MIB - 2)
    os.ftruncate(source, size)
    assert renew(source, target) <= 3 * MIB // 2
    assert content(target) == content(source)


def test_a_kept_file_is_nowhere_else() -> None:
    file = KeptFile("1", "/var/log", 5, 0o100644, 0, 0, 1, 2, 3, 4, "00", "crc32", {"user.a": "00"}, (1, 2, 3, 4, 5))
    kept = Kept((file,), (KeptDirectory("/var", 0o755, 0, 0),), ("/var/log-journal",))
    assert kept_from(asdict(kept)) == kept
    for name, path in (("../1", "/var/log"), ("", "/var/log"), ("1/../../x", "/var/log"), ("1", "var/log")):
        with pytest.raises(ValueError, match="kept file"):
            kept_from(asdict(Kept((KeptFile(name, path, 5, 0o100644, 0, 0, 1, 2, 3, 4, "00", "crc32"),))))


def test_a_link_is_no_directory_of_kept_files(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "1").touch()
    (tmp_path / "stillframe-files").symlink_to(other)
    assert kept_names(str(tmp_path)) == []
    remove_kept(str(tmp_path))
    assert (other / "1").exists()
