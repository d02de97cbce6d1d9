# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of tasks that share descriptors and tables, and the files that no descriptor stands for."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from _engine.errors import TargetError, UnsupportedError
from _engine.images.image import ImagesDir
from _engine.images.schema import message
from _engine.kernel.kcmp import KCMP_FILE, kcmp
from _engine.options import DumpOptions, RestoreOptions
from _engine.resources.files.build_id import build_id, from_words
from _engine.resources.files.dump import FilesDump
from _engine.resources.files.restore import FilesRestore
from _engine.resources.fs import dump_fs, read_umask, restore_fs
from holder import Holder, holding


@contextmanager
def family(directory: Path) -> Iterator[tuple[Holder, list[int]]]:
    with holding("family", directory) as holder:
        children = [holder.fds["child"], holder.fds["sharing"]]
        try:
            yield holder, [holder.pid, *children]
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)


def images_in(directory: Path) -> ImagesDir:
    directory.mkdir()
    return ImagesDir(str(directory))


def test_tables_and_descriptions_are_shared_as_they_were(tmp_path: Path) -> None:
    images = images_in(tmp_path / "images")
    with ExitStack() as stack:
        holder, pids = stack.enter_context(family(tmp_path / "state"))
        files = stack.enter_context(FilesDump(DumpOptions(tree=holder.pid, images_dir="")))
        assert files.preflight(pids) == []
        files.collect(pids)
        files.collect_late()
        files.write(images)
        parent, child, sharing = (files.files_id(pid) for pid in pids)
        assert parent == sharing != child
        assert [name for name in images.names() if name.startswith("fdinfo")] == sorted([f"fdinfo-{parent}", f"fdinfo-{child}"])
        assert files.warnings() == []
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as again:
        assert again.check() == []
        again.open()
        ours = {descriptor.fd: descriptor for descriptor in again.descriptors(parent)}
        theirs = {descriptor.fd: descriptor for descriptor in again.descriptors(child)}
        inherited = holder.fds["inherited"]
        assert ours[inherited].local == theirs[inherited].local and os.lseek(ours[inherited].local, 0, os.SEEK_CUR) == 12
        own = theirs[holder.fds["reader"]]  # the child closed the reading end, and the next file took its number
        assert own.file_id != ours[holder.fds["reader"]].file_id
        assert os.lseek(own.local, 0, os.SEEK_CUR) == 3
        assert kcmp(os.getpid(), os.getpid(), KCMP_FILE, own.local, ours[inherited].local) != 0
        assert 100 in theirs and 100 not in ours
        calls: list[tuple[int, tuple[Any, ...]]] = []

        class Recorder:
            def __init__(self, pid: int) -> None:
                self.pid = pid

            def call(self, name: str, *args: int | bytes) -> int:
                calls.append((self.pid, (name, *args[:3])))
                return 0

        for pid, table in zip(pids, (parent, child, sharing)):
            again.finish(pid, table, Recorder(pid))
        assert [(pid, call[0], call[3]) for pid, call in calls] == [(pids[1], "epoll_ctl", holder.fds["writer"])]


def test_a_task_that_is_gone(tmp_path: Path) -> None:
    with holding("special", tmp_path / "state") as holder:
        holder.end()
        with FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files, pytest.raises(TargetError, match=str(holder.pid)):
            files.preflight([holder.pid])


def test_mapped_files_have_one_id_and_their_build_id(tmp_path: Path) -> None:
    images, library = images_in(tmp_path / "images"), os.path.realpath(sys.executable)
    (tmp_path / "plain").write_bytes(b"x" * 10000)
    with holding("special", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        files.collect([holder.pid])
        files.collect_late()
        executable = os.open(library, os.O_RDONLY)
        plain, writable = os.open(tmp_path / "plain", os.O_RDONLY), os.open(tmp_path / "plain", os.O_RDWR)
        first = files.add_open(executable, library)
        assert files.add_open(executable, library) == first
        second, third = files.add_open(plain, str(tmp_path / "plain")), files.add_open(writable, str(tmp_path / "plain"), os.O_RDWR)
        expected = build_id(executable)
        for fd in (executable, plain, writable):
            os.close(fd)
        files.write(images)
        facts = {fact[0]: fact for fact in files.manifest_files()}
    entries: dict[int, Any] = {entry.id: entry for entry in images.read("files")}  # type: ignore[attr-defined]
    assert len(expected) == 20 and from_words(entries[first].reg.build_id) == expected
    assert len({first, second, third}) == 3 and not entries[second].reg.build_id
    assert facts[library][1:4] == (os.stat(library).st_size, os.stat(library).st_mtime_ns, expected.hex())
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as again:
        assert again.check() == []
        again.open()
        assert fcntl.fcntl(again.local(third), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        assert fcntl.fcntl(again.local(second, os.O_RDWR), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        assert again.local(second, os.O_RDWR) == again.local(second, os.O_RDWR) != again.local(second)


def test_another_build_of_a_mapped_file_is_an_obstacle(tmp_path: Path) -> None:
    images, copy = images_in(tmp_path / "images"), tmp_path / "program"
    copy.write_bytes(Path(sys.executable).read_bytes())
    with holding("special", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        files.collect([holder.pid])
        files.collect_late()
        fd = os.open(copy, os.O_RDONLY)
        files.add_open(fd, str(copy))
        expected = build_id(fd)
        os.close(fd)
        files.write(images)
    content = copy.read_bytes()
    assert content.count(expected) == 1
    copy.write_bytes(content.replace(expected, bytes(20)))
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as strict:
        assert [f"at the dump it was {expected.hex()}" in found.why for found in strict.check()] == [True]
    with FilesRestore(images, RestoreOptions(images_dir=images.path, file_validation="filesize")) as lax:
        assert lax.check() == []


def test_a_mapped_file_that_was_replaced_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    fd = os.open(tmp_path / "old", os.O_RDONLY)
    (tmp_path / "new").write_bytes(b"new")
    os.link(tmp_path / "old", tmp_path / "other")
    os.rename(tmp_path / "new", tmp_path / "old")
    with FilesDump(DumpOptions(tree=1, images_dir="")) as files, pytest.raises(UnsupportedError, match="replaced"):
        files.add_open(fd, f"{tmp_path}/old (deleted)")
    os.close(fd)


def test_directories_and_umask(tmp_path: Path) -> None:
    images = images_in(tmp_path / "images")
    with holding("special", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        files.collect([holder.pid])
        files.collect_late()
        entry = dump_fs(holder.pid, files)
        assert entry.umask == read_umask(holder.pid) == read_umask(os.getpid())
        files.write(images)
    names: dict[int, str] = {file.id: file.reg.name for file in images.read("files")}  # type: ignore[attr-defined]
    assert (names[entry.cwd_id], names[entry.root_id]) == (os.getcwd(), "/")
    calls: list[tuple[str, tuple[int | bytes, ...]]] = []

    class Recorder:
        def call(self, name: str, *args: int | bytes) -> int:
            calls.append((name, args))
            return 0

    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as again:
        again.open()
        restore_fs(entry, again, Recorder())
        assert calls[-2:] == [("fchdir", (again.local(entry.cwd_id),)), ("umask", (entry.umask,))]
        assert "chroot" not in [name for name, _arguments in calls]


def test_sockets_and_pipes_go_to_the_user_of_the_task(tmp_path: Path) -> None:
    images = images_in(tmp_path / "images")
    with holding("pipe,udp", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        files.collect([holder.pid])
        files.collect_late()
        files.write(images)
    core = message("core_entry")()
    core.mtype = 1
    core.thread_core.futex_rla = core.thread_core.futex_rla_len = core.thread_core.sched_nice = core.thread_core.sched_policy = 0
    core.thread_core.creds.SetInParent()
    for field in core.thread_core.creds.DESCRIPTOR.fields:
        if field.name.endswith("id"):
            setattr(core.thread_core.creds, field.name, 1234)
        elif field.name == "secbits":
            core.thread_core.creds.secbits = 0
    images.write(f"core-{holder.pid}", [core])

    class NoCalls:
        def call(self, name: str, *args: int | bytes) -> int:
            raise AssertionError(name)

    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as again:
        again.open()
        again.finish(holder.pid, 1, NoCalls())
        local = {descriptor.fd: descriptor.local for descriptor in again.descriptors(1)}
        assert os.fstat(local[holder.fds["reader"]]).st_uid == os.fstat(local[holder.fds["bound"]]).st_gid == 1234
        assert os.fstat(local[0]).st_uid == 0
