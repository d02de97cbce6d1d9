# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Looking at a tree with more descriptors than we may have: they are copied one at a time, and only to be asked something."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _engine.images.image import ImagesDir
from _engine.kernel import pidfd
from _engine.options import DumpOptions
from _engine.resources.files.dump import FilesDump
from process import python, running

MANY = 300
ROOM = 100
"""Descriptors that we may have: for the rest of the engine too."""
DIFFERENT = f"""
import os, socket
kept = [(os.eventfd(0), os.open("/dev/null", os.O_RDONLY), *socket.socketpair(), socket.socket(), os.pipe()) for _ in range({MANY // 5})]
"""
SHARED = f"""
import os, socket
one = socket.socket()
one.bind(("127.0.0.1", 0))
kept = [os.dup(one.fileno()) for _ in range({MANY})]
"""


@contextmanager
def little_room() -> Iterator[None]:
    """Lower the soft limit of this process, which must be enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (ROOM, hard))
    try:
        yield
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == ROOM
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def look(pid: int, images: str = "") -> FilesDump:
    files = FilesDump(DumpOptions(tree=pid, images_dir=images))
    assert [found for found in files.preflight([pid]) if "pipe" not in found.where] == []
    return files


def test_few_copies_are_enough_to_look_at_many_files() -> None:
    with running(*python(DIFFERENT)) as process, little_room(), look(process.pid):
        assert len(os.listdir(f"/proc/{process.pid}/fd")) > ROOM


def test_one_copy_is_enough_for_many_descriptors_of_one_file(tmp_path: Path) -> None:
    with running(*python(SHARED)) as process, little_room(), look(process.pid, str(tmp_path)) as files:
        files.collect([process.pid])
        files.collect_late()
        files.write(ImagesDir(str(tmp_path)))


def test_a_file_that_can_be_told_by_proc_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    take = pidfd.ProcessFiles.copy
    monkeypatch.setattr(pidfd.ProcessFiles, "copy", lambda self, fd: copied.append(fd) or take(self, fd))  # type: ignore[func-returns-value]
    program = "import os, select\npoll = select.epoll()\nreader, writer = os.pipe()\npoll.register(reader)\nevent = os.eventfd(0)\n"
    with running(*python(program + "null = open('/dev/null')")) as process, look(process.pid):
        assert set(copied) <= {0, 1, 2}  # the other end of these pipes is outside
