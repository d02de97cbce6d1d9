# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps on filesystems that are full, or that cannot free parts of a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest
from _engine.dedup import dedup
from _engine.errors import ImagesError
from _engine.images import schema
from _engine.images.chain import open_chain
from _engine.images.directory import DumpDirectory
from _engine.images.image import Entry
from _engine.images.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "images"))
from made_dumps import fill  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
NAME = "pagemap-100"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Yield what mounts a filesystem and tells where; skips where that is not allowed."""
    places = []

    def mount(kind: str, *options: str) -> Path:
        done = subprocess.run(["mount", "-t", kind, *options, "none", str(tmp_path)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount {kind} here: {done.stderr.strip()}")
        places.append(tmp_path)
        return tmp_path

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def make(path: Path, name: str, pages: dict[int, object], parent: str = "") -> str:
    """Make dump NAME below PATH and return its directory."""
    images_dir = str(path / name)
    os.mkdir(images_dir)
    with DumpDirectory(images_dir) as directory:
        fill(images_dir, {NAME: pages}, directory)  # type: ignore[dict-item]
        if parent:
            directory.link_parent(f"../{parent}")
        directory.commit(schema.message("inventory_entry")(img_version=2), Manifest(id=name, parent_id=parent))
    return images_dir


def test_a_full_disk_leaves_no_half_dump(mounted: Callable[..., Path]) -> None:
    place = mounted("tmpfs", "-o", "size=128k")
    full = "cannot write .*/sk-queues.img: No space left on device; free some space"
    with pytest.raises(ImagesError, match=full), DumpDirectory(str(place)) as directory:
        directory.images.write("files", [])
        packet = schema.message("sk_packet_entry")(id_for=1, length=1 << 20)
        directory.images.write("sk-queues", [Entry(packet, bytes(1 << 20))])
    assert os.listdir(place) == []


def test_a_disk_full_at_the_commit_leaves_no_half_dump(mounted: Callable[..., Path]) -> None:
    place = mounted("tmpfs", "-o", "size=128k")
    full = "cannot write .*No space left on device"
    with pytest.raises(ImagesError, match=full), DumpDirectory(str(place)) as directory:
        (place / "pages-1.img").write_bytes(bytes(os.statvfs(place).f_bavail * os.statvfs(place).f_frsize))
        directory.commit(schema.message("inventory_entry")(img_version=2), Manifest(id="a"))
    assert os.listdir(place) == []


def test_a_filesystem_without_hole_punching_is_refused_untouched(mounted: Callable[..., Path]) -> None:
    place = mounted("ramfs")
    first = make(place, "1", {0: 1, 1: 2})
    second = make(place, "2", {0: "parent", 1: 3}, "1")
    before = {path: path.read_bytes() for path in Path(first).iterdir()}
    with pytest.raises(ImagesError, match="/1/pages-1.img cannot free parts of a file"):
        dedup(second)
    assert {path: path.read_bytes() for path in Path(first).iterdir()} == before
    assert open_chain(first).restorable()


@pytest.fixture(params=["xfs", "btrfs"])
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Yield a directory on a filesystem of which files can share blocks; skips where there is none."""
    program = shutil.which(f"mkfs.{request.param}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip(f"no mkfs.{request.param} here")
    disk, place = tmp_path / "disk", tmp_path / "place"
    with open(disk, "wb") as file:
        file.truncate(320 << 20)
    place.mkdir()
    subprocess.run([program, "-q", str(disk)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(disk), str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount {request.param} here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def magic(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def test_equal_pages_lie_in_one_place(sharing: Path) -> None:
    """Few of them are the same in the parent, so that no dump is made anew; every dump reads as before, and a second run does nothing."""
    pages: dict[int, object] = {page: page % 250 + 1 for page in range(512)}
    first = make(sharing, "1", pages)
    second = make(sharing, "2", {page: 7 if page < 8 else 255 - page % 50 for page in range(300)}, "1")
    os.sync()
    before = {path: path.read_bytes() for images in (first, second) for path in Path(images).iterdir() if path.is_file()}
    free = os.statvfs(sharing).f_bfree
    told = dedup(second, check=True, keep_restorable=True)
    result = dedup(second, keep_restorable=True)
    os.sync()
    assert {path: path.read_bytes() for path in before} == before
    assert told.bytes_shared == result.bytes_shared > 500 * 4096 and result.pages_punched == 0 and result.punched == ()
    if magic(sharing.parent / "disk") == b"XFSB":  # btrfs frees what it has written together only as a whole
        assert (os.statvfs(sharing).f_bfree - free) * os.statvfs(sharing).f_bsize > result.bytes_shared // 2
    assert open_chain(first).restorable() and open_chain(second).restorable()
    assert dedup(second, keep_restorable=True).bytes_shared == 0


@pytest.mark.parametrize("check", [True, False])
def test_where_no_pages_can_be_shared_none_are(mounted: Callable[..., Path], check: bool) -> None:
    below = mounted("tmpfs")
    for name in ("lower", "upper", "work", "merged"):
        (below / name).mkdir()
    layers = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
    done = subprocess.run(["mount", "-t", "overlay", "-o", layers, "none", below / "merged"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount overlay here: {done.stderr.strip()}")
    try:
        make(below / "merged", "1", {0: 1, 1: 2})
        newest = make(below / "merged", "2", {0: 3, 2: 2}, parent="1")
        assert dedup(newest, check=check, keep_restorable=True).bytes_shared == 0
    finally:
        subprocess.run(["umount", below / "merged"], check=True)
