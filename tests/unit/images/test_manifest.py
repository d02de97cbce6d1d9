# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest: what is written is read, what is changed is noticed, what is newer is said to be."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from _engine.errors import ChainError
from _engine.images.manifest import (
    FORMAT,
    FileRecord,
    ImageRecord,
    Manifest,
    PagesRecord,
    Tree,
    manifest_path,
    read_manifest,
    write_manifest,
)

MANIFEST = Manifest(
    id="9d0d58ba-90ae-4d4c-8c6f-2f3a1a3a5b0e",
    parent_id="1f0d58ba-90ae-4d4c-8c6f-2f3a1a3a5b0e",
    tracker="uffd_wp",
    tracking="uffd_wp",
    tree=Tree(100, 4711, "2f3a"),
    host="db1",
    kernel="6.18.44",
    cpu_features=("avx2", "sse4_2"),
    algorithm="crc32",
    images={"core-100.img": ImageRecord(700, "0badcafe")},
    pages={"pages-1.img": PagesRecord(8192, ("00000001", "00000002"), ((0, 1), (5, 9)))},
    files=(FileRecord("/srv/\udcff data.rdb", 10, 1700000000123456789, 0o100644, "ab12"),),
    timings={"frozen_time": 28000},
    figures={"pages_written": 512},
)


def test_round_trip(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), MANIFEST)
    assert read_manifest(str(tmp_path)) == MANIFEST
    assert os.listdir(tmp_path) == ["stillframe.json"]
    assert stat.S_IMODE(os.stat(manifest_path(str(tmp_path))).st_mode) == 0o600


def test_the_text_is_stable(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), MANIFEST)
    first = Path(manifest_path(str(tmp_path))).read_bytes()
    write_manifest(str(tmp_path), replace(MANIFEST, images=dict(reversed(list(MANIFEST.images.items())))))
    assert Path(manifest_path(str(tmp_path))).read_bytes() == first
    assert list(json.loads(first)) == [*sorted(set(json.loads(first)) - {"checksum"}), "checksum"]


def test_none_is_none(tmp_path: Path) -> None:
    assert read_manifest(str(tmp_path)) is None


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), MANIFEST)
    path = Path(manifest_path(str(tmp_path)))
    whole = path.read_bytes()
    for position in range(len(whole) - 1):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        if json.loads(whole) == _loaded(bytes(broken)):
            continue  # the case of a hexadecimal digit in an escape: it says the same
        with pytest.raises(ChainError, match="stillframe.json") as caught:
            read_manifest(str(tmp_path))
        assert "damaged" in str(caught.value) or "newer" in str(caught.value)


def _loaded(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


NONSENSE = ["", "{", "[]", "7", "null", '"x"', '{"format": 1}', '{"format": "1"}', '{"format": 1, "checksum": "00000000"}']


@pytest.mark.parametrize("text", NONSENSE)
def test_what_is_no_manifest_is_damaged(tmp_path: Path, text: str) -> None:
    Path(manifest_path(str(tmp_path))).write_text(text)
    with pytest.raises(ChainError, match="is damaged"):
        read_manifest(str(tmp_path))


def test_a_newer_format_is_said_to_be_newer(tmp_path: Path) -> None:
    Path(manifest_path(str(tmp_path))).write_text(json.dumps({"format": FORMAT + 1, "whatever": ["it", "has"]}))
    with pytest.raises(ChainError, match="was written by a newer Stillframe .format 2, known here: 1.*; use a Stillframe at least as new"):
        read_manifest(str(tmp_path))


def test_unreadable(tmp_path: Path) -> None:
    os.mkdir(manifest_path(str(tmp_path)))
    with pytest.raises(ChainError, match="cannot read .*stillframe.json: Is a directory"):
        read_manifest(str(tmp_path))
