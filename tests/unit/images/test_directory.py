# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory becomes a dump by its last rename, and is as it was when the dump fails."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Callable

import pytest

from _engine.errors import ImagesError
from _engine.images import schema
from _engine.images.checksum import Checksummer
from _engine.images.directory import DumpDirectory, dump_files, is_dump
from _engine.images.image import ImagesDir
from _engine.images.manifest import ImageRecord, Manifest, PagesRecord, read_manifest


def inventory() -> object:
    return schema.message("inventory_entry")(img_version=2)


def commit(path: Path, **options: bool) -> Manifest:
    with DumpDirectory(str(path), **options) as directory:
        directory.images.write("files", [])
        (path / "pages-1.img").write_bytes(b"p" * 4096)
        return directory.commit(inventory(), Manifest(id="a"))


def test_commit(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text("kept")
    written = commit(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["dump.log", "files.img", "inventory.img", "pages-1.img", "stillframe.json"]
    assert is_dump(str(tmp_path))
    assert read_manifest(str(tmp_path)) == written
    assert ImagesDir(str(tmp_path)).read_one("inventory").img_version == 2
    assert set(written.images) == {"files.img", "inventory.img"}
    with open(tmp_path / "inventory.img", "rb") as file:
        size = os.path.getsize(tmp_path / "inventory.img")
        assert written.images["inventory.img"] == ImageRecord(size, Checksummer(written.algorithm).whole(file.fileno(), size))
    assert written.pages["pages-1.img"].size == 4096 and len(written.pages["pages-1.img"].stretches) == 1
    assert written.created.endswith("+00:00")
    assert {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("inventory.img", "files.img", "stillframe.json")} == {0o600}


def test_checksums_taken_while_writing_are_kept(tmp_path: Path) -> None:
    record = PagesRecord(4096, ("taken before",))
    with DumpDirectory(str(tmp_path)) as directory:
        (tmp_path / "pages-1.img").write_bytes(b"p" * 4096)
        assert directory.commit(inventory(), Manifest(id="a"), {"pages-1.img": record}).pages == {"pages-1.img": record}


def test_a_failed_dump_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "dump.log").write_text("kept")
    with pytest.raises(KeyboardInterrupt), DumpDirectory(str(tmp_path)) as directory:
        directory.images.write("files", [])
        (tmp_path / "pages-1.img").write_bytes(b"p")
        directory.images.write("inventory", [inventory()], suffix=".partial")
        directory.images.write("stats-dump", [schema.message("stats_entry")()])
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["dump.log"]


def test_until_the_commit_it_is_no_dump(tmp_path: Path) -> None:
    with DumpDirectory(str(tmp_path)) as directory:
        directory.images.write("files", [])
        assert not is_dump(str(tmp_path))
        directory.commit(inventory(), Manifest(id="a"))
        assert is_dump(str(tmp_path))


def test_a_failing_commit_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match="lacks img_version"), DumpDirectory(str(tmp_path)) as directory:
        directory.commit(schema.message("inventory_entry")(), Manifest(id="a"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda path: path.rmdir(), "does not exist; create it"),
        (lambda path: (path.rmdir(), path.write_text("")), "is not a directory"),
        (lambda path: (path / "inventory.img").write_text(""), "already holds a dump; choose an empty directory, or use force"),
        (lambda path: (path / "core-1.img").write_text(""), r"already holds files of an unfinished dump \(core-1.img\)"),
        (lambda path: (path / "inventory.img.partial").write_text(""), "unfinished dump"),
        (lambda path: (path / "stats-dump").write_text(""), "unfinished dump"),
        (lambda path: (path / "stillframe.json").write_text(""), "unfinished dump"),
        (lambda path: os.symlink("../nowhere", path / "parent"), "unfinished dump"),
    ],
)
def test_refusals(tmp_path: Path, prepare: Callable[[Path], object], sentence: str) -> None:
    path = tmp_path / "dump"
    path.mkdir()
    prepare(path)
    before = os.listdir(path) if path.is_dir() else None
    with pytest.raises(ImagesError, match=sentence) as caught, DumpDirectory(str(path)):
        pytest.fail("entered")
    assert str(path) in str(caught.value)
    assert before is None or os.listdir(path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to root")
def test_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ImagesError, match="cannot be written to"):
        DumpDirectory(str(tmp_path)).check()


def test_force_replaces_a_dump_and_nothing_else(tmp_path: Path) -> None:
    commit(tmp_path)
    (tmp_path / "core-9.img").write_text("old")
    (tmp_path / "dump.log").write_text("kept")
    os.symlink("../gone", tmp_path / "parent")
    with DumpDirectory(str(tmp_path), force=True) as directory:
        assert os.listdir(tmp_path) == ["dump.log"]
        directory.commit(inventory(), Manifest(id="new"))
    assert read_manifest(str(tmp_path)).id == "new"


def test_check_touches_nothing(tmp_path: Path) -> None:
    commit(tmp_path)
    before = dump_files(str(tmp_path))
    DumpDirectory(str(tmp_path), force=True).check()
    assert dump_files(str(tmp_path)) == before


def test_two_dumps_do_not_fill_one_directory(tmp_path: Path) -> None:
    with DumpDirectory(str(tmp_path)), pytest.raises(ImagesError, match="another dump is being written"), DumpDirectory(str(tmp_path)):
        pytest.fail("entered")
    with DumpDirectory(str(tmp_path)):
        pass


def test_the_parent_link_is_relative(tmp_path: Path) -> None:
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
    commit(tmp_path / "1")
    for name, given in (("2", "../1/"), ("3", str(tmp_path / "1"))):
        with DumpDirectory(str(tmp_path / name)) as directory:
            assert os.path.samefile(directory.link_parent(given), tmp_path / "1")
            assert os.readlink(tmp_path / name / "parent") == "../1"
        assert os.listdir(tmp_path / name) == []


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("../none", "is not a directory"),
        ("../file", "is not a directory"),
        ("../half", "holds no finished dump"),
        (".", "is images_dir itself"),
    ],
)
def test_what_is_no_parent(tmp_path: Path, given: str, sentence: str) -> None:
    for name in ("half", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "half" / "core-1.img").write_text("")
    with DumpDirectory(str(tmp_path / "new")) as directory:
        with pytest.raises(ImagesError, match=sentence):
            directory.link_parent(given)
        assert os.listdir(tmp_path / "new") == []
