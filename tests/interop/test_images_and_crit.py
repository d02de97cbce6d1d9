# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""crit decodes every image that we write: that of the system and, where STILLFRAME_CRIT names one, another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from _engine.images import schema
from _engine.images.image import Entry, ImagesDir
from _engine.images.magic import KINDS, Kind
from _engine.images.pagemap import Pagemap, Run, write_pagemap
from _engine.images.payload import NO_PAYLOAD, PAYLOADS, ipc_messages
from kinds import CRIT as CRIT_SHOWS
from kinds import IMAGES

CRIT = [path for path in (shutil.which("crit"), os.environ.get("STILLFRAME_CRIT")) if path]
NO_HANDLER = {"binfmt-misc", "signal-s", "signal-p", "pidfd"}
"""Kinds that CRIU writes, or once wrote, and that its crit cannot show (lib/pycriu/images/images.py of CRIU 4.2)."""
ONE_ENTRY = {"tcp-stream"}


@pytest.fixture(params=CRIT or [""])
def crit(request: pytest.FixtureRequest) -> str:
    if not request.param:
        pytest.skip("no crit here: install criu, or name one in STILLFRAME_CRIT")
    return str(request.param)


def show(crit: str, path: str) -> Dict[str, Any]:
    done = subprocess.run([crit, "show", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{path}: {done.stderr}"
    shown: Dict[str, Any] = json.loads(done.stdout)
    return shown


def fill(message: Any, depth: int = 0) -> Any:
    """Give every field of MESSAGE a value, also of the messages in it."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None:
            if depth < 4:
                inner = value.add() if hasattr(value, "add") else value
                inner.SetInParent()
                fill(inner, depth + 1)
            continue
        content: Any = 5
        if field.enum_type is not None:
            content = field.enum_type.values[0].number
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            content = "x" if field.type == field.TYPE_STRING else b"x"
        elif field.type == field.TYPE_BOOL:
            content = True
        if hasattr(value, "append"):
            value.append(content)
        else:
            setattr(message, field.name, content)
    return message


def entry(name: str) -> Entry:
    message = fill(schema.message(name)())
    length = PAYLOADS.get(name, NO_PAYLOAD).length(message)
    return Entry(message, b"d" * (7 if length is None else length))


def entries_of(kind: Kind) -> List[Entry]:
    first = entry(kind.message)
    entries = [first, *(entry("ipc_msg") for _message in range(ipc_messages(first.message)))]
    return entries if kind.name in ONE_ENTRY else [*entries, *(entries if kind.then == "" else [entry(kind.then)])]


SHOWN = [
    pytest.param(kind, id=kind.name, marks=pytest.mark.kind(*IMAGES.get(kind.name, ())))
    for kind in KINDS
    if kind.name not in NO_HANDLER
]  # fmt: skip


@pytest.mark.direction(CRIT_SHOWS)
@pytest.mark.parametrize("kind", SHOWN)
def test_every_kind_with_every_field(crit: str, kind: Kind, tmp_path: Path) -> None:
    images, name = ImagesDir(str(tmp_path)), kind.name + ("" if not kind.id else "-dump" if kind.name == "stats" else "-1")
    entries = entries_of(kind)
    images.write(name, entries)
    assert images.entries(name) == entries
    shown = show(crit, images.file(name))["entries"]
    assert len(shown) == sum(one.message.DESCRIPTOR.name != "ipc_msg" for one in entries)


def test_pagemap_means_the_same(crit: str, tmp_path: Path) -> None:
    images = ImagesDir(str(tmp_path))
    write_pagemap(images, "pagemap-7", Pagemap(3, (Run(0x10000, 5, True), Run(0x20000, 2, False))))
    head, parent, present = show(crit, images.file("pagemap-7"))["entries"]
    assert head["pages_id"] == 3
    assert (int(parent["vaddr"], 16), parent["flags"]) == (0x10000, "PE_PARENT")
    assert (int(present["vaddr"], 16), present["flags"]) == (0x20000, "PE_PRESENT")
    assert {one.get("nr_pages") or one["compat_nr_pages"] for one in (parent, present)} == {5, 2}


def test_crit_decodes_and_encodes_back_to_the_same_bytes(crit: str, tmp_path: Path) -> None:
    images = ImagesDir(str(tmp_path))
    images.write("pstree", [schema.message("pstree_entry")(pid=5, ppid=0, pgid=5, sid=5, threads=[5, 6])])
    decoded, encoded = str(tmp_path / "pstree.json"), tmp_path / "again.img"
    subprocess.run([crit, "decode", "-i", images.file("pstree"), "-o", decoded], check=True)
    subprocess.run([crit, "encode", "-i", decoded, "-o", str(encoded)], check=True)
    assert encoded.read_bytes() == Path(images.file("pstree")).read_bytes()
