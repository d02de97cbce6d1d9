# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A service, its client, and the way of both through a chain of dumps: while it runs, again, the last time, restored from each."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from _engine.images.image import ImagesDir
from _engine.resources import pstree
from look import tree
from victim import PATIENCE, Lab, until

LAST = 3
ROUND = 5
"""Seconds until a client gives up waiting for an answer: to what nobody had accepted yet at a dump, none will come."""
TCP_CLOSE, TCP_ESTABLISHED = "--tcp-close", "--tcp-established"


class Service:
    """What the tests know of one service. A subclass tells how it is started, put under load, marked and checked."""

    programs: tuple[str, ...] = ()
    """What has to be installed."""
    options: tuple[str, ...] = ()
    """Of dumps and restores."""

    def __init__(self, lab: Lab) -> None:
        require(*self.programs)
        self.lab = lab
        self.folder = lab.folder
        self.pid = 0
        """Of the root."""

    def start(self) -> None:
        """Start it, set `pid`, and return when it serves."""
        raise NotImplementedError

    def load(self) -> contextmanager[None]:  # type: ignore[valid-type]
        """Return a context in which clients use it."""
        raise NotImplementedError

    def mark(self, number: int) -> None:
        """Store what only dump NUMBER and those after it have."""

    def check(self, number: int) -> None:
        """Assert, as a client, that all data of dump NUMBER is there and nothing later, and that it goes on serving."""
        raise NotImplementedError

    def files(self) -> tuple[Path, ...]:
        """Return the files and folders that it writes to: a dump leaves them to the operator."""
        return ()


def require(*programs: str) -> None:
    """Skip the test where one of PROGRAMS is not installed."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (.ci/run installs it)")


def go_through_chain(service: Service) -> None:
    """Dump SERVICE three times under load, each time on top of the last; then restore and check each dump."""
    service.start()
    dumps = []
    with service.load():
        for number in range(1, LAST + 1):
            service.mark(number)
            dumps.append(dump(service, number))
        restore(service, LAST, dumps[-1])
    service.check(LAST)
    end(service.pid)
    for number in range(1, LAST):
        restore(service, number, dumps[number - 1])
        service.check(number)
        end(service.pid)


def dump(service: Service, number: int) -> Path:
    """Make dump NUMBER and keep its files beside it. The last one ends the service."""
    options = ["--track-mem", *service.options]
    options += ["--skip-in-flight"] if {TCP_CLOSE, TCP_ESTABLISHED} & set(service.options) else []
    options += ["--prev-images-dir", f"../{number - 1}"] if number > 1 else []
    stays = "--leave-stopped" if service.files() else "--leave-running"
    path = service.lab.dump(service.pid, str(number), *options, *([stays] if number < LAST else []))
    for index, source in enumerate(service.files()):
        copy(source, kept(path, index))
    if number == LAST:
        reap(pids_of(path))
    elif service.files():
        proceed(service.pid)
    return path


def restore(service: Service, number: int, path: Path) -> None:
    """Restore dump NUMBER with the files that belong to it, and see that every process and thread of it is there."""
    for index, target in enumerate(service.files()):
        copy(kept(path, index), target)
    # after the last dump alone the clients still have their ends of the connections
    options = service.options if number == LAST else [TCP_CLOSE if option == TCP_ESTABLISHED else option for option in service.options]
    service.lab.restore(path, "--leave-stopped", *options)
    expected = {task.pid: sorted(task.threads) for task in pstree.read(ImagesDir(str(path))).tasks}
    assert {pid: sorted(map(int, os.listdir(f"/proc/{pid}/task"))) for pid in tree(service.pid)} == expected
    proceed(service.pid)


def proceed(root: int) -> None:
    """Let a stopped tree go on, the root last."""
    for pid in reversed(tree(root)):
        os.kill(pid, signal.SIGCONT)


def end(root: int) -> None:
    """Kill the tree under ROOT and reap it."""
    pids = tree(root)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    reap(pids)


def pids_of(path: Path) -> list[int]:
    """Return the processes of the dump in PATH."""
    return [task.pid for task in pstree.read(ImagesDir(str(path))).tasks]


def reap(pids: list[int]) -> None:
    """Wait until PIDS, killed, are gone: those whose parent is gone are ours."""
    until(lambda: not _reap_any() and not any(os.path.exists(f"/proc/{pid}") for pid in pids), f"not all of {pids} end")


def _reap_any() -> bool:
    """Reap a child of ours that has ended, whichever it is: a snapshot still belongs to the session of what it was taken of."""
    with suppress(ChildProcessError):
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    return False


def kept(path: Path, index: int) -> Path:
    """Return where the files of the dump in PATH are kept."""
    return path.parent / f"files-{path.name}-{index}"


def copy(source: Path, target: Path) -> None:
    """Make TARGET what SOURCE is: a folder with all its files, or a file; owners and times as well."""
    if source.is_dir():
        wanted = {path.relative_to(source) for path in source.rglob("*")}
        for path in sorted(target.rglob("*"), reverse=True) if target.exists() else ():
            if path.relative_to(target) not in wanted:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(source, target, symlinks=True, copy_function=_copy_file, dirs_exist_ok=True)
        for path in (source, *source.rglob("*")):
            _take_owner(path, target / path.relative_to(source))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_file(str(source), str(target))
        _take_owner(source, target)


def _copy_file(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)


def _take_owner(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)


def free_port() -> int:
    """Return a TCP port that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def await_port(port: int) -> None:
    """Return when someone listens on PORT."""
    until(lambda: _answers(port), f"nobody listens on port {port}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


@contextmanager
def hammering(*works: Callable[[], None]) -> Iterator[None]:
    """Do each of WORKS again and again, in a thread of its own. Lost connections are no failure: the next round makes its own."""
    over = threading.Event()
    failures: list[BaseException] = []
    rounds = [0] * len(works)

    def hammer(index: int) -> None:
        while not over.is_set():
            try:
                works[index]()
                rounds[index] += 1
            except (OSError, EOFError):
                time.sleep(0.01)
            except Exception as failure:
                failures.append(failure)
                return

    threads = [threading.Thread(target=hammer, args=(index,), daemon=True) for index in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(rounds) or bool(failures), "the load does not begin")
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not failures, failures
