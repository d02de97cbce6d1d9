# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Files by path, pipes, FIFOs and the descriptors without a name, from one process to another."""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
from pathlib import Path

import pytest
from _engine.errors import UnsupportedError
from _engine.kernel.fdinfo import fdinfo
from _engine.kernel.kcmp import KCMP_FILE, kcmp
from _engine.options import DumpOptions, RestoreOptions
from _engine.resources.files.dump import FilesDump
from _engine.resources.files.restore import FilesRestore
from holder import Restored, carried, dump, holding

F_GETPIPE_SZ = 1032
COUNTER = struct.Struct("=Q")


def flags(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def offset(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_CUR)


def test_regular_files_keep_flags_and_offsets(tmp_path: Path) -> None:
    with carried("regular", tmp_path) as found:
        assert offset(found["data"]) == 17 and os.read(found["data"], 2) == bytes([17, 18])
        assert flags(found["data"]) & os.O_ACCMODE == os.O_RDWR and flags(found["data"]) & os.O_SYNC == os.O_SYNC
        assert offset(found["again"]) == 5 and flags(found["again"]) & os.O_NONBLOCK
        assert flags(found["log"]) & os.O_APPEND and offset(found["log"]) == 50
        assert flags(found["path"]) & os.O_PATH


def test_a_shared_description_stays_shared(tmp_path: Path) -> None:
    with carried("regular", tmp_path) as found:
        us = os.getpid()
        assert kcmp(us, us, KCMP_FILE, found["data"], found["shared"]) == 0
        assert kcmp(us, us, KCMP_FILE, found["data"], found["again"]) != 0
        assert found.cloexec("data") and not found.cloexec("shared")


def test_devices_and_directories(tmp_path: Path) -> None:
    with carried("special", tmp_path) as found:
        assert os.readlink(f"/proc/self/fd/{found['null']}") == "/dev/null"
        assert os.read(found["zero"], 3) == bytes(3)
        assert len(os.read(found["urandom"], 3)) == 3
        assert stat.S_ISDIR(os.fstat(found["directory"]).st_mode) and os.listdir(found["directory"]) == []


def test_an_unlinked_file_comes_back_unlinked(tmp_path: Path) -> None:
    with carried("ghost", tmp_path, ghost_limit=1 << 22) as found:
        status = os.fstat(found["first"])
        assert status.st_nlink == 0 and status.st_size == (1 << 20) + 4096 and stat.S_IMODE(status.st_mode) == 0o604
        assert os.pread(found["first"], 20, 0) == b"beginning" + bytes(11) and os.pread(found["first"], 3, 1 << 20) == b"end"
        assert status.st_blocks * 512 < 1 << 18, "the hole was filled"
        assert offset(found["first"]) == 9
        assert os.path.samestat(status, os.fstat(found["second"])) and flags(found["second"]) & os.O_APPEND
        assert os.pread(found["nameless"], 20, 0) == b"nameless" and os.fstat(found["nameless"]).st_nlink == 0
        assert os.readlink(f"/proc/self/fd/{found['first']}") == f"{tmp_path}/state/gone (deleted)"
        assert os.listdir(tmp_path / "state") == []


def test_pipes_keep_their_content_and_size(tmp_path: Path) -> None:
    with carried("pipe", tmp_path) as found:
        assert fcntl.fcntl(found["reader"], F_GETPIPE_SZ) == 1 << 17
        assert os.read(found["reader"], 1 << 17) == bytes(range(256)) * 300
        with pytest.raises(BlockingIOError):
            os.read(found["reader"], 1)
        os.write(found["shared"], b"more")
        assert os.read(found["both"], 10) == b"more"
        assert kcmp(os.getpid(), os.getpid(), KCMP_FILE, found["writer"], found["shared"]) == 0
        assert os.read(found["ended"], 100) == b"last words" and os.read(found["ended"], 1) == b""


def test_a_dump_leaves_the_pipe_as_it_was(tmp_path: Path) -> None:
    with holding("pipe", tmp_path / "state") as holder:
        dump(holder, tmp_path / "images")
        fd = os.open(f"/proc/{holder.pid}/fd/{holder.fds['reader']}", os.O_RDONLY | os.O_NONBLOCK)
        assert os.read(fd, 1 << 17) == bytes(range(256)) * 300
        os.close(fd)


def test_a_pipe_whose_other_end_is_elsewhere_is_warned_of(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.close(told)
        select.select([], [], [])
    try:
        os.close(writer)
        os.close(told)
        os.read(ready, 1)  # the child has closed what it shall not have
        with FilesDump(DumpOptions(tree=pid, images_dir=str(tmp_path))) as files:
            files.preflight([pid])
        warnings = [warning for warning in files.warnings() if f"fd {writer} " in warning]
        assert len(warnings) == 1 and "outside of the tree" in warnings[0] and f"process {pid}" in warnings[0]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(ready)


def test_fifos_keep_their_content(tmp_path: Path) -> None:
    with carried("fifo", tmp_path) as found:
        assert os.read(found["reader"], 100) == b"in the fifo"
        os.write(found["both"], b"again")
        assert os.read(found["reader"], 100) == b"again"
        assert flags(found["reader"]) & os.O_NONBLOCK and not flags(found["both"]) & os.O_NONBLOCK


def test_event_counters(tmp_path: Path) -> None:
    with carried("eventfd", tmp_path) as found:
        assert flags(found["counter"]) & os.O_NONBLOCK and not flags(found["semaphore"]) & os.O_NONBLOCK
        assert COUNTER.unpack(os.read(found["counter"], 8)) == (7,)
        assert COUNTER.unpack(os.read(found["semaphore"], 8)) == (1,)
        assert COUNTER.unpack(os.read(found["semaphore"], 8)) == (1,)
        assert COUNTER.unpack(os.read(found["large"], 8)) == (1 << 40,)


def finish(found: Restored) -> None:
    class NoCalls:
        def call(self, name: str, *args: int | bytes) -> int:
            raise AssertionError(f"{name} should not be needed")

    found.files.finish(os.getpid(), 1, NoCalls())


def test_timers_go_on(tmp_path: Path) -> None:
    with carried("timerfd", tmp_path) as found:
        finish(found)
        info = {name: fdinfo(os.getpid(), found[name]) for name in ("once", "repeated", "absolute", "idle", "ticking")}
        assert 900 < info["once"].pair("it_value")[0] <= 1000 and info["once"].pair("it_interval") == (0, 0)
        assert 400 < info["repeated"].pair("it_value")[0] <= 500 and info["repeated"].pair("it_interval") == (30, 7)
        assert info["absolute"].values["settime flags"] == "01" and info["absolute"].pair("it_value")[0] > 100000
        assert info["idle"].pair("it_value") == (0, 0)
        assert 3500 < info["ticking"].pair("it_value")[0] <= 3600
        assert COUNTER.unpack(os.read(found["ticking"], 8)) == (1,)
        assert [info[name].values["clockid"] for name in ("once", "repeated")] == ["1", "0"]


def test_signalfds_keep_their_mask(tmp_path: Path) -> None:
    with carried("signalfd", tmp_path) as found:
        info = fdinfo(os.getpid(), found["signals"])
        assert int(info.values["sigmask"], 16) == 1 << 9 | 1 << 14 and info.flags & os.O_NONBLOCK


@pytest.mark.parametrize(
    ("kind", "name", "why", "remedy"),
    [
        ("big_ghost", "file", "more than ghost_limit (1048576)", "raise ghost_limit"),
        ("replaced", "file", "renamed", "open it again"),
        ("epoll_orphan", "epoll", "closed while a process outside", "remove it from the epoll instance"),
        ("packet_pipe", "writer", "packet mode", "plain pipe"),
    ],
)
def test_what_cannot_be_carried_is_refused(tmp_path: Path, kind: str, name: str, why: str, remedy: str) -> None:
    with holding(kind, tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        obstacles = [found for found in files.preflight([holder.pid]) if f"fd {holder.fds[name]} " in found.where]
        assert len(obstacles) == 1 and obstacles[0].pid == holder.pid
        assert why in obstacles[0].why and remedy in obstacles[0].remedy
        with pytest.raises(UnsupportedError, match="fd"):
            files.collect([holder.pid])
            files.collect_late()


def test_namespaces_of_the_tree_are_carried(tmp_path: Path) -> None:
    with carried("namespaces", tmp_path) as found:
        for name in ("net", "pid", "mnt"):
            assert os.path.samestat(os.fstat(found[name]), os.stat(f"/proc/self/ns/{name}"))


def test_every_obstacle_is_named_at_once(tmp_path: Path) -> None:
    with holding("refused", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        whys = {found.where.split()[1]: found.why for found in files.preflight([holder.pid])}
        expected = {
            "locked": "lock",
            "fanotify": "fanotify",
            "terminal": "terminal",
            "netlink": "netlink",
            "pidfd": "pidfd",
            "namespace": "namespace",
            "process": "not in the tree",
            "carrier": "about a process",
        }
        for name, word in expected.items():
            assert word in whys[str(holder.fds[name])], name


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state: (state / "data").unlink(), "cannot be found"),
        (lambda state: (state / "data").write_bytes(b"short"), "5 bytes, at the dump it had 256"),
        (lambda state: (state / "data").chmod(0o644), "mode is 0o100644"),
    ],
)
def test_a_changed_file_is_an_obstacle(tmp_path: Path, change: object, why: str) -> None:
    with holding("regular", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
    change(tmp_path / "state")  # type: ignore[operator]
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
        obstacles = files.check()
        assert obstacles and all(why in found.why and "data" in found.where for found in obstacles)


def test_a_log_that_grew_is_no_obstacle(tmp_path: Path) -> None:
    with holding("regular", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
    with (tmp_path / "state" / "log").open("a") as log:
        log.write("more")
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
        assert files.check() == []
        files.open()
        os.write(next(found.local for found in files.descriptors(1) if found.fd == holder.fds["log"]), b"end")
    assert (tmp_path / "state" / "log").read_text().endswith("line\nmoreend")


def test_leave_out_hides_descriptors(tmp_path: Path) -> None:
    with holding("refused", tmp_path / "state") as holder:
        ours = frozenset((holder.pid, fd) for fd in holder.fds.values())
        with FilesDump(DumpOptions(tree=holder.pid, images_dir=""), ours) as files:
            assert all("SCM_RIGHTS" not in found.why and found.where.split()[1] == "4" for found in files.preflight([holder.pid]))
