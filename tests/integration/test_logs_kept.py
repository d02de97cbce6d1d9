# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is copied in the stop: of a log only its end, of other files what differs, nothing of what is as it was."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _engine.errors import TargetError, UnsupportedError, UsageError
from _engine.images.kept import KeptFile, kept_path
from _engine.resources.files.kept import FilesKept, obstacles
from _engine.resources.files.written import opened_now

SIZE = 8 << 20
US = (os.getpid(),)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    """A log of ours: we are the tree, and stand still as long as we do nothing."""
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, os.urandom(SIZE))
    yield fd
    os.close(fd)


def keep(tmp_path: Path, meanwhile: Any, *asked: str) -> tuple[FilesKept, dict[str, KeptFile]]:
    """Keep our files, with MEANWHILE called before the stop; return what is kept below TMP_PATH, after a look at its content."""
    images = tmp_path / "images"
    images.mkdir()
    with FilesKept(asked or ("open",), str(images)) as kept:
        kept.look_ahead(US)
        meanwhile()
        kept.take(US, list(opened_now(US)))
        done = kept.finish()
        found = {Path(file.path).name: file for file in done.files if file.path.startswith(str(tmp_path))}
        for file in found.values():
            assert Path(kept_path(str(images), file)).read_bytes() == Path(file.path).read_bytes()
        return kept, found


def test_of_a_log_its_end(tmp_path: Path, log: int) -> None:
    kept, found = keep(tmp_path, lambda: os.write(log, b"a line\n"))
    assert found["log"].size == SIZE + 7
    assert kept.bytes < SIZE // 2


def test_of_others_what_differs(tmp_path: Path, log: int) -> None:
    with open(tmp_path / "log", "r+b", buffering=0) as anywhere:
        kept, found = keep(tmp_path, lambda: os.pwrite(anywhere.fileno(), b"another", 3 << 20))
    assert found["log"].size == SIZE
    assert kept.bytes < SIZE // 2


def test_a_log_that_was_written_anew(tmp_path: Path, log: int) -> None:
    def rotate() -> None:
        os.ftruncate(log, 0)
        os.write(log, os.urandom(SIZE + 1))

    with pytest.raises(TargetError, match="log was cut or written anew while it was kept"):
        keep(tmp_path, rotate)


def test_a_log_that_was_cut(tmp_path: Path, log: int) -> None:
    _kept, found = keep(tmp_path, lambda: os.ftruncate(log, 100))
    assert found["log"].size == 100


def test_a_lease_is_not_broken(tmp_path: Path) -> None:
    with open(tmp_path / "leased", "w+b") as leased:
        assert obstacles(US, ["open"]) == []
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert [obstacle.where for obstacle in obstacles(US, ["open"])] == [leased.name]
        with pytest.raises(UnsupportedError, match="which opening it would break"):
            keep(tmp_path, lambda: None)
        assert fcntl.fcntl(leased, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def test_what_was_asked_for(tmp_path: Path, log: int) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("1.db", "2.db", "other", "deep/one"):
        (tmp_path / name).write_text(name)
    _kept, found = keep(tmp_path, lambda: None, f"{tmp_path}/*.db", f"{tmp_path}/deep")
    assert set(found) == {"1.db", "2.db", "one", "log"}
    for wrong in (["relative"], ["none", "open"]):
        with pytest.raises(UsageError):
            FilesKept(wrong)
