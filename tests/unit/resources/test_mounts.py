# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of mounts: how they are read, compared, and written to the images."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from _engine.kernel.mountinfo import Mount, mounts
from _engine.resources.mounts.difference import Tree, compare
from _engine.resources.mounts.record import BIND, Directory, Record, from_entry, to_entry

OURS = r"""
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
21 20 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=1k
22 21 0:6 / /dev/pts rw,nosuid shared:3 - devpts devpts rw
23 20 8:2 / /var/log rw,relatime shared:4 - ext4 /dev/sda2 rw
24 20 0:7 / /srv/a\040place\134 rw,noatime - tmpfs none rw
"""
THEIRS = r"""
64 50 8:2 / /var/log ro,relatime shared:30 master:4 - ext4 /dev/sda2 rw
60 49 8:1 / / ro,relatime shared:31 master:1 - ext4 /dev/sda1 rw,errors=remount-ro
61 60 0:50 / /dev rw,nosuid - tmpfs tmpfs rw
62 61 0:6 / /dev/pts rw,nosuid unbindable - devpts devpts rw
63 60 8:2 / /var/log rw,relatime master:4 - ext4 /dev/sda2 rw
50 60 8:1 /var /var rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro
65 60 0:7 / /srv/a\040place\134 rw,noatime - tmpfs none rw
"""


def read(text: str, path: Path) -> list[Mount]:
    path.write_text(text.lstrip("\n"))
    return mounts(str(path))


def test_a_line_is_read(tmp_path: Path) -> None:
    found = {mount.id: mount for mount in read(THEIRS, tmp_path / "list")}
    assert found[64] == Mount(
        64, 50, os.makedev(8, 2), "/", "/var/log", frozenset({"ro", "relatime"}), 30, 4, False, "ext4", "/dev/sda2", ("rw",)
    )
    assert found[65].place == "/srv/a place\\" and found[62].unbindable and found[50].root == "/var"


def test_ours_can_be_read() -> None:
    tree = Tree(mounts())
    assert tree.root.place == "/" and {mount.id for mount in tree.all()} <= set(tree.by_id)


def test_namespaces_are_compared(tmp_path: Path) -> None:
    theirs, ours = Tree(read(THEIRS, tmp_path / "theirs")), Tree(read(OURS, tmp_path / "ours"))
    found = compare(theirs, ours)
    assert {number: mount.id for number, mount in found.alike.items()} == {60: 20, 63: 23, 65: 24}
    assert [mount.id for mount in found.removed] == [21]


def test_what_is_hidden_comes_before_what_hides_it(tmp_path: Path) -> None:
    theirs = Tree(read(THEIRS, tmp_path / "theirs"))
    order = [mount.id for mount in theirs.all()]
    assert order[0] == 60 and order.index(63) < order.index(50) < order.index(64) and order.index(61) < order.index(62)
    assert [theirs.within(theirs.by_id[number]) for number in (60, 50, 64, 62)] == ["", "var", "log", "pts"]


@pytest.mark.parametrize("number", [60, 62, 64, 65])
def test_a_record_comes_back_from_its_image(tmp_path: Path, number: int) -> None:
    mount = Tree(read(THEIRS, tmp_path / "theirs")).by_id[number]
    record = Record(mount, BIND, "/some/path", True, (Directory(0o1777, 1, 2),), "tmpfs-5.tar.gz.img", ("/dev",))
    assert from_entry(to_entry(record)) == replace(record, mount=mount._replace(options=mount.options - {"rw"}))
