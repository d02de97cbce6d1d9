# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A page server that outlives who started it: found again by a file in its images directory, gone when its dump is there."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType
from typing import NoReturn, Optional

from .cli.line_handler import logger_for
from .cli.line_log import open_log
from .errors import EngineError, KernelError, UsageError
from .images.fault import faults
from .images.image import create
from .images.manifest import is_received
from .images.schema import message
from .kernel import procfs
from .options import ReceiveOptions
from .page_server import check, page_server
from .transfer.visitors import listen

STATE = "page-server.json"
_ENDING = 30.0
"""Seconds that a page server may take to free what a dump replaces, or to clean up."""
_VERBOSITY = 3


@dataclass(frozen=True)
class Running:
    """A page server in the background."""

    pid: int
    start_time: int
    """In clock ticks since boot: tells it from a later process with its PID."""
    address: str
    port: int


class _Stopped(Exception):
    """Somebody wants the page server to end."""


def find(images_dir: str) -> Optional[Running]:
    """Return the page server that fills IMAGES_DIR, None when none runs."""
    try:
        with open(os.path.join(images_dir, STATE), encoding="utf-8") as file:
            running = Running(**json.load(file))
        return running if procfs.stat(running.pid).start_time == running.start_time else None
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, *procfs.GONE):
        return None


def start(options: ReceiveOptions, address: str, port: int, log_path: Optional[str]) -> Running:
    """Start a page server on ADDRESS and PORT, 0 for a free one, in a session of its own. Raises EngineError when it cannot begin."""
    check(options)
    message("pagemap_head")  # nothing can be imported any more once the caller has ended
    with listen(address, port) as listener:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _become(options, listener, log_path, writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as answer:
            said = answer.read()
    running = find(options.images_dir)
    if said or running is None:
        os.waitpid(pid, 0)
        raise UsageError(said or "the page server ended at once; its log tells why")
    return running


def stop(images_dir: str) -> bool:
    """End the page server of IMAGES_DIR, or wait for it if its dump is whole; return whether there was one. Raises KernelError."""
    running = find(images_dir)
    if running is not None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(running.pid)
            try:
                _end(pidfd, running.pid, whole=is_received(images_dir))
            finally:
                os.close(pidfd)
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(os.path.join(images_dir, STATE))
    return running is not None


def _end(pidfd: int, pid: int, whole: bool) -> None:
    if whole and select.select([pidfd], [], [], _ENDING)[0]:
        return
    for signum in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(pidfd, signum)
        if select.select([pidfd], [], [], _ENDING)[0]:
            return
    raise KernelError(f"page server {pid} does not end; look at its log")


def _become(options: ReceiveOptions, listener: socket.socket, log_path: Optional[str], ready: int) -> NoReturn:
    """Be the page server, and end; what keeps it from beginning is written to READY."""
    status = 1
    state = os.path.join(options.images_dir, STATE)
    try:
        signal.signal(signal.SIGTERM, _stop)
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        first, second = sorted((listener.fileno(), ready))
        os.closerange(3, first)
        os.closerange(first + 1, second)
        os.closerange(second + 1, os.sysconf("SC_OPEN_MAX"))
        verbosity = _VERBOSITY if log_path else 0
        logger = logger_for(open_log(log_path or os.devnull, verbosity).descriptor, verbosity)
        try:
            bound = listener.getsockname()
            running = Running(os.getpid(), procfs.stat(os.getpid()).start_time, bound[0], bound[1])
            with faults("write", state), create(state) as file:
                file.write(json.dumps(asdict(running)).encode())
            os.close(ready)
            ready = -1
            page_server(options, listener, logger)
            status = 0
        except (EngineError, OSError) as error:
            logger.error("%s", error)
            with suppress(OSError):
                os.write(ready, str(error).encode())
    except _Stopped:
        pass
    finally:
        with suppress(OSError):
            os.unlink(state)
        os._exit(status)


def _stop(signum: int, frame: Optional[FrameType]) -> NoReturn:
    raise _Stopped
