# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What only a restored task can do to its descriptors: epoll targets, owners of signals. This process stands for the task."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
from pathlib import Path

import pytest
from _engine.images.image import ImagesDir
from _engine.images.schema import message
from _engine.kernel.fdinfo import fdinfo
from _engine.options import RestoreOptions
from _engine.resources.files.restore import FilesRestore
from holder import OwnStub, carried, dump, holding


def as_task(kind: str, directory: Path, script: str) -> None:
    """Restore descriptors of KIND in a forked process, have it finish them by its own calls, and run SCRIPT's checks there."""
    with carried(kind, directory) as found:
        pid = os.fork()
        if pid == 0:
            try:
                found.files.finish(os.getpid(), 1, OwnStub(found.files))
                CHECKS[script](found)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def check_epoll(found: object) -> None:
    number = found.number  # type: ignore[attr-defined]
    inner, outer = select.epoll.fromfd(number("inner")), select.epoll.fromfd(number("outer"))
    ready = dict(inner.poll(0))
    # the counter is watched under the number that the task has it under; its data is still the number that was closed
    assert ready[number("reader")] & select.EPOLLIN and len(ready) == 2, ready
    assert inner.poll(0) == [], "edge-triggered and one-shot targets are reported once"
    watched = {target.tfd: target for target in fdinfo(os.getpid(), number("inner")).targets}
    assert set(watched) == {number("reader"), number("moved")}
    assert {target.tfd for target in fdinfo(os.getpid(), number("outer")).targets} == {number("inner"), number("moved")}
    os.write(number("writer"), b"more")
    assert dict(outer.poll(0))[number("inner")] & select.EPOLLIN


def check_signalled(found: object) -> None:
    reader, writer = found.number("reader"), found.number("writer")  # type: ignore[attr-defined]
    assert fcntl.fcntl(reader, 11) == signal.SIGUSR1
    assert fcntl.fcntl(reader, fcntl.F_GETFL) & fcntl.FASYNC
    fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    os.write(writer, b"x")
    info = signal.sigtimedwait({signal.SIGUSR1}, 5)
    assert info is not None and info.si_signo == signal.SIGUSR1


CHECKS = {"epoll": check_epoll, "signalled": check_signalled}


def test_epoll_watches_what_it_watched(tmp_path: Path) -> None:
    as_task("epoll", tmp_path, "epoll")


def test_the_owner_of_signals(tmp_path: Path) -> None:
    """The owner is gone, so only its calls are looked at, in order; the rest is set for real."""
    with holding("signalled", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
        number = holder.fds["reader"]
        owner = next(entry.pipe.fown for entry in images.read("files") if entry.pipe.fown.pid)  # type: ignore[attr-defined]
        assert (owner.signum, owner.pid_type, owner.pid) == (signal.SIGUSR1, 1, holder.pid)

        class Recorder:
            calls: list[tuple[object, ...]] = []

            def call(self, name: str, *args: int | bytes) -> int:
                self.calls.append((name, *args))
                return 0

        with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
            files.open()
            files.finish(holder.pid, 1, Recorder())
        own = b"\1\0\0\0" + holder.pid.to_bytes(4, "little")
        assert ("fcntl", number, 10, int(signal.SIGUSR1)) in Recorder.calls and ("fcntl", number, 15, own) in Recorder.calls
        flags = next(call[3] for call in Recorder.calls if call[:3] == ("fcntl", number, fcntl.F_SETFL))
        assert isinstance(flags, int) and flags & fcntl.FASYNC


def test_an_epoll_that_no_task_can_fill_is_an_obstacle(tmp_path: Path) -> None:
    with holding("epoll", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
    table = [entry for entry in images.read("fdinfo-1") if entry.fd != holder.fds["reader"]]  # type: ignore[attr-defined]
    images.write("fdinfo-1", table)
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
        assert [found.why for found in files.check() if f"fd {holder.fds['reader']}" in found.why]


def test_kinds_that_are_not_restored_are_obstacles(tmp_path: Path) -> None:
    images = ImagesDir(str(tmp_path))
    images.write("files", [message("file_entry")(type=15, id=1)])
    images.write("fdinfo-1", [message("fdinfo_entry")(id=1, flags=0, type=15, fd=0)])
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
        obstacles = files.check()
    assert len(obstacles) == 1 and "TUNF" in obstacles[0].why and "fd 0" in obstacles[0].where


@pytest.mark.parametrize("kind", ["epoll"])
def test_numbers_of_tasks_are_left_free(tmp_path: Path, kind: str) -> None:
    with carried(kind, tmp_path) as found:
        highest = max(descriptor.fd for descriptor in found.files.descriptors(1))
        assert all(descriptor.local > highest for descriptor in found.files.descriptors(1))
