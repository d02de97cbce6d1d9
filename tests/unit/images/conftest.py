# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Real dump directories for the tests of images."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Callable, Mapping, Optional

import pytest
from made_dumps import BASE, TREE, Made, Maker, Page, fill

from _engine.images import schema
from _engine.images.chain import open_chain
from _engine.images.directory import DumpDirectory
from _engine.images.manifest import DUMP, PRE_DUMP, Manifest, Tree
from _engine.images.pagemap import PAGE_SIZE


@pytest.fixture
def make_dump(tmp_path: Path) -> Maker:
    """Return what makes a dump of the pages given by pagemap's name and number, on top of a parent when there is one."""

    def make(
        name: str, tasks: Mapping[str, Mapping[int, Page]], parent: Optional[Made] = None, kind: str = DUMP, tree: Tree = TREE
    ) -> Made:
        path = str(tmp_path / name)
        os.mkdir(path)
        inventory = schema.message("inventory_entry")(img_version=2, fdinfo_per_id=True)
        if kind == PRE_DUMP:
            inventory.pre_dump_mode = 1
        manifest = Manifest(id=str(uuid.uuid4()), kind=kind, parent_id=parent.id if parent else "", tree=tree)
        with DumpDirectory(path) as directory:
            fill(path, tasks, directory)
            if parent:
                directory.link_parent(f"../{os.path.basename(parent.path)}/")
            pids = [int(one.rpartition("-")[2]) for one in tasks if not one.startswith("pagemap-shmem")]
            task = schema.message("pstree_entry")
            directory.images.write("pstree", [task(pid=pid, ppid=0, pgid=pid, sid=pid, threads=[pid]) for pid in pids])
            directory.commit(inventory, manifest)
        return Made(path, manifest.id)

    return make


@pytest.fixture
def read_back() -> Callable[[str, str], Mapping[int, int]]:
    """Return what reads a dump's pagemap through its chain: the byte of each page by its number; fails on a page of mixed bytes."""
    def read(path: str, name: str) -> Mapping[int, int]:
        found = {}
        for extent in open_chain(path).extents(name):
            with open(extent.path, "rb") as file:
                file.seek(extent.offset)
                for number in range(extent.pages):
                    content = set(file.read(PAGE_SIZE))
                    assert len(content) == 1
                    found[(extent.start - BASE) // PAGE_SIZE + number] = content.pop()
        return found

    return read
