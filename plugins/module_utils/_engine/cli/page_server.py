# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb page-server of the command line: its socket, and the background."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress

from ..errors import UsageError
from ..options import ReceiveOptions
from ..page_server import check, page_server, receive_one
from .line_log import STDOUT, LineLog
from .pidfile import check_pidfile, write_pidfile
from .settings import Settings, tls_options
from .status_fd import check_status_fd, report_ready
from ..transfer.visitors import listen


def serve(settings: Settings, images_dir: str, log: LineLog) -> int:
    """Listen, say so, and receive one dump; return the exit status."""
    check_status_fd(settings.status_fd)
    check_pidfile(settings.pidfile)
    given = settings.ps_socket >= 0
    options = ReceiveOptions(images_dir, settings.prev_images_dir, settings.auto_dedup, None if given else tls_options(settings))
    check(options)
    source = _given(settings.ps_socket) if given else listen(settings.address, settings.port)
    with source:
        if not given:
            where = "Listening on {} port {}".format(*source.getsockname()[:2])
            log.logger.info("%s", where)
            if not settings.port:
                sys.stdout.write(f"{where}\n")
                sys.stdout.flush()
        if settings.restore_detached and _in_background(settings, log):
            return 0
        if settings.pidfile and not settings.restore_detached:
            write_pidfile(settings.pidfile, str(os.getpid()))
        report_ready(settings.status_fd)
        if given:
            result = receive_one(options, [(source, f"descriptor {settings.ps_socket}")], log.logger)
        else:
            result = page_server(options, source, log.logger)
    for warning in result.warnings:
        log.logger.warning("%s", warning)
    log.logger.info("Received %d pages, freed %d bytes", result.pages_received, result.bytes_deduplicated)
    return 0


def _given(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"descriptor {descriptor}, of --ps-socket, is no socket ({error.strerror}); connect one") from error


def _in_background(settings: Settings, log: LineLog) -> bool:
    """Go on as a child in a session of its own, and return False there; in the parent True, the child's PID in the pidfile."""
    pid = os.fork()
    if pid:
        if settings.pidfile is not None:
            try:
                write_pidfile(settings.pidfile, str(pid))
            except UsageError:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise
        return True
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2, *((log.descriptor,) if settings.log_file in (None, STDOUT) else ())):
        with suppress(OSError):
            os.dup2(null, stream)
    os.close(null)
    return False
