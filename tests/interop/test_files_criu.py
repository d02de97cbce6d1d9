# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The descriptors of one process, dumped by CRIU and by us: entry by entry the same; and CRIU's dump opened by us.

CRIU is the one of the environment variable STILLFRAME_CRIU, else the machine's.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from _engine.images.image import ImagesDir
from _engine.images.schema import enum

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))
sys.path.insert(0, str(Path(__file__).parent))
from kinds import OURS, THEIRS  # noqa: E402
from holder import Holder, dump, holding, restored  # noqa: E402

TYPES = {number: name for name, number in enum("fd_types").items()}
KINDS = pytest.mark.kind(
    "character devices", "unlinked files", "pipes", "FIFOs", "eventfd", "timerfd", "signalfd", "unix: pairs", "TCP: listening", "UDP"
)  # fmt: skip
SAME = "regular,special,ghost,pipe,fifo,eventfd,signalfd,epoll,unix_pairs,unix_named,tcp,udp,namespaces"
RESTORED = "special,ghost,pipe,fifo,eventfd,timerfd,signalfd,unix_pairs,tcp,udp,namespaces"


@pytest.fixture(scope="module")
def criu() -> str:
    """The path of a CRIU that works here."""
    path = os.environ.get("STILLFRAME_CRIU") or shutil.which("criu")
    if not path:
        pytest.skip("there is no CRIU: set STILLFRAME_CRIU to one (tests/interop/get-criu fetches it)")
    if subprocess.run([path, "check"], capture_output=True, check=False).returncode:
        pytest.skip(f"{path} does not work on this kernel (criu check fails)")
    return path


def dump_with(criu: str, holder: Holder, images: Path, *options: str) -> ImagesDir:
    images.mkdir()
    command = [criu, "dump", "--tree", str(holder.pid), "--images-dir", str(images), "--log-file", "dump.log", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = (images / "dump.log").read_text().splitlines() if done.returncode else []
    assert done.returncode == 0, done.stderr + "\n".join(line for line in log if "Error" in line)
    return ImagesDir(str(images))


class Files:
    """The files of a dump by descriptor, without what must differ."""

    def __init__(self, images: ImagesDir, table: str) -> None:
        self._images = images
        self._files: dict[int, Any] = {file.id: file for file in images.read("files")}  # type: ignore[attr-defined]
        self.fdinfo: dict[int, Any] = {entry.fd: entry for entry in images.read(table)}  # type: ignore[attr-defined]

    def entry(self, fd: int) -> dict[str, Any]:
        """The entry of FD as text by field, ids replaced by what they lead to."""
        file = self._files[self.fdinfo[fd].id]
        field, entry = next((field.name, value) for field, value in file.ListFields() if field.message_type)
        lines = self._lines(entry)
        if field == "fifo":
            lines["regf_id"] = str(self._lines(self._files[entry.regf_id].reg))
        if TYPES[file.type] == "TIMERFD":
            lines.pop("vsec"), lines.pop("vnsec")
        return {**lines, "type": TYPES[file.type], "cloexec": self.fdinfo[fd].flags}

    @staticmethod
    def _lines(entry: Any) -> dict[str, Any]:
        skipped = ("id", "ns_id")
        return {field.name: str(value) for field, value in entry.ListFields() if field.name not in skipped}

    def payloads(self, image: str) -> list[tuple[Any, bytes]]:
        """What an image holds, in an order of its own, with sockets named by inode number."""
        found = []
        for entry in self._images.entries(image) if self._images.has(image) else []:
            message: Any = entry.message
            key = self._files[message.id_for].usk.ino if image == "sk-queues" else (message.pipe_id, message.bytes, message.size)
            found.append((key, entry.payload))
        return found if image == "sk-queues" else sorted(found)

    def ghosts(self) -> dict[str, tuple[Any, ...]]:
        """Owner, mode, times and content of the ghosts by the descriptors that lead to them; CRIU uses chunks for sparse files only."""
        found = {}
        for remap in self._images.read("remap-fpath"):
            holders = [fd for fd, entry in self.fdinfo.items() if entry.id == remap.orig_id]  # type: ignore[attr-defined]
            entries = self._images.entries(f"ghost-file-{remap.remap_id:x}")  # type: ignore[attr-defined]
            head: Any = entries[0].message
            content = bytearray(head.size if head.chunks else entries[0].payload)
            for chunk in entries[1:]:
                at: Any = chunk.message
                content[at.off : at.off + at.len] = chunk.payload
            found[str(holders)] = (head.uid, head.gid, head.mode, head.dev, head.ino, str(head.atim), str(head.mtim), bytes(content))
        return found


def table_of(images: ImagesDir) -> str:
    return next(name for name in images.names() if name.startswith("fdinfo-"))


def test_both_dumps_say_the_same(criu: str, tmp_path: Path) -> None:
    with holding(SAME, tmp_path / "state") as holder:
        ours = Files(dump(holder, tmp_path / "ours", ghost_limit=1 << 21)[0], "fdinfo-1")
        images = dump_with(criu, holder, tmp_path / "criu", "--leave-running", "--ghost-limit", "2M")
        theirs = Files(images, table_of(images))
        again = Files(dump(holder, tmp_path / "again", ghost_limit=1 << 21)[0], "fdinfo-1")
    assert set(ours.fdinfo) == set(theirs.fdinfo)
    for name, fd in [*holder.fds.items(), ("standard input", 0)]:
        if name == "semaphore":
            continue  # CRIU loses EFD_SEMAPHORE
        assert ours.entry(fd) == theirs.entry(fd), name
        assert again.entry(fd) == ours.entry(fd), f"{name} after the dumps"
    for image in ("pipes-data", "fifo-data", "sk-queues"):
        assert sorted(ours.payloads(image), key=str) == sorted(theirs.payloads(image), key=str), image
    assert ours.ghosts() == theirs.ghosts()


@KINDS
@pytest.mark.direction(THEIRS)
def test_we_open_what_criu_dumped(criu: str, tmp_path: Path) -> None:
    with holding(RESTORED, tmp_path / "state") as holder:
        images = dump_with(criu, holder, tmp_path / "criu", "--ghost-limit", "2M")
    table = table_of(images)
    os.rename(images.file(table), images.file("fdinfo-1"))
    with restored(images, holder.fds) as found:
        assert os.read(found["reader"], 100) in (b"in the fifo", bytes(range(100)))
        assert os.read(found["stream peer"], 100) == (b"one" + b"two" * 1000)[:100]
        assert os.pread(found["first"], 3, 1 << 20) == b"end" and os.fstat(found["first"]).st_nlink == 0
        assert os.read(found["counter"], 8)[0] == 7


OFFSET = 1000
"""Put on our file ids, so that they do not meet CRIU's for the mapped files."""


def put_in(ours: ImagesDir, theirs: ImagesDir) -> None:
    """Put our images of the descriptors in the place of CRIU's in a dump of its."""
    table: Any = theirs.read(table_of(theirs))
    described = {entry.id for entry in table}
    files: list[Any] = [file for file in theirs.read("files") if file.id not in described]  # type: ignore[attr-defined]
    for file in ours.read("files"):
        file.id += OFFSET  # type: ignore[attr-defined]
        entry: Any = next(value for field, value in file.ListFields() if field.message_type)
        entry.id += OFFSET
        if entry.DESCRIPTOR.name == "fifo_entry":
            entry.regf_id += OFFSET
        files.append(file)
    theirs.write("files", files)
    for image, field in (("fdinfo-1", "id"), ("remap-fpath", "orig_id"), ("sk-queues", "id_for")):
        entries = ours.entries(image)
        for shifted in entries:
            setattr(shifted.message, field, getattr(shifted.message, field) + OFFSET)
        theirs.write(image.replace("fdinfo-1", table_of(theirs)), entries)
    for image in [name for name in ours.names() if name.startswith(("pipes-data", "fifo-data", "ghost-file"))]:
        theirs.write(image, ours.entries(image))


@contextmanager
def restored_by(criu: str, images: ImagesDir, pid: int) -> Iterator[None]:
    """Restore a dump with CRIU for the length of the block."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: CRIU leaves the restored task to us
    command = [criu, "restore", "--images-dir", images.path, "--log-file", "restore.log", "--restore-detached", "-v4"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    log = (Path(images.path) / "restore.log").read_text().splitlines()
    assert done.returncode == 0, done.stderr + "\n".join(line for line in log if "Error" in line)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@KINDS
@pytest.mark.kind("regular files, directories", "epoll", "unix: named and listening")
@pytest.mark.direction(OURS)
def test_criu_restores_what_we_dumped(criu: str, tmp_path: Path) -> None:
    kinds = SAME + ",timerfd"
    with holding(kinds, tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "ours", ghost_limit=1 << 21)
        hybrid = dump_with(criu, holder, tmp_path / "criu", "--ghost-limit", "2M")
    before = Files(images, "fdinfo-1")
    put_in(images, hybrid)
    with restored_by(criu, hybrid, holder.pid):
        after = Files(dump(holder, tmp_path / "after", ghost_limit=1 << 21)[0], "fdinfo-1")
    changed = ("ino", "peer", "pipe_id", "tfd", "backlog")
    for name, fd in holder.fds.items():
        if name in ("semaphore", "large"):
            continue  # CRIU loses EFD_SEMAPHORE, and counts above 32 bits
        old, new = before.entry(fd), after.entry(fd)
        for field in changed:
            if field != "backlog" or old.get("state") != "10":
                old.pop(field, None), new.pop(field, None)
        if name in ("directory", "nameless"):  # CRIU opens them without O_DIRECTORY and O_TMPFILE
            old["flags"] = str(int(old["flags"]) & ~os.O_TMPFILE)
        assert new == old, name
    for image in ("pipes-data", "fifo-data", "sk-queues"):
        assert sorted(data for _message, data in after.payloads(image)) == sorted(data for _message, data in before.payloads(image)), image
