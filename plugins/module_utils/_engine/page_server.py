# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""page-server: receive the pages of one dump, ours or CRIU's, from another host, and free what they replace.

What does not come in whole, or makes no sense, is thrown away and told of in the log; then the next client is waited for.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from contextlib import contextmanager
from typing import Iterable, Iterator, Optional

from .clock import Clock
from .dedup import dedup
from .errors import ChainError, ImagesError, TransferError
from .images.fault import faults
from .images.manifest import Manifest
from .images.pagemap import PAGE_SIZE, Run
from .images.received import ReceivedImage, ReceivingDirectory, check_empty, open_parent, remove_left_over
from .options import ReceiveOptions
from .results import ReceiveResult
from .transfer import page_protocol, tls
from .transfer.page_protocol import Request
from .transfer.visitors import Visitor, visitors

_FIRST_WORD, _SILENCE = 10.0, 600.0
"""Seconds for a client that has begun to speak to finish its first request, and to say anything at all later."""


def page_server(options: ReceiveOptions, listener: socket.socket, log: logging.Logger) -> ReceiveResult:
    """Receive the pages of the next dump that comes to LISTENER into options.images_dir. Raises EngineError."""
    return receive_one(options, visitors(listener, options.tls, options.timeout, log), log)


def receive_one(options: ReceiveOptions, clients: Iterable[Visitor], log: logging.Logger) -> ReceiveResult:
    """Receive the pages of a dump from the first of CLIENTS that sends a whole one. Raises EngineError."""
    clock = Clock()
    manifest: Optional[Manifest] = None
    with _locked(options.images_dir):
        check(options)
        remove_left_over(options.images_dir)
        for connection, name in clients:
            log.info("Accepted connection from %s", name)
            with connection:
                manifest = _session(options, connection, name, log)
            if manifest is not None:
                break
        if manifest is None:
            raise TransferError("no dump came in; the log tells what came instead")
        freed = dedup(options.images_dir).bytes_freed if options.auto_dedup and options.prev_images_dir is not None else 0
    pages = sum(record.size for record in manifest.pages.values()) // PAGE_SIZE
    return ReceiveResult(options.images_dir, manifest.id, manifest.parent_id, pages, freed, clock.between("start", "end"))


def check(options: ReceiveOptions) -> None:
    """Raise EngineError when nothing can be received as OPTIONS say. Changes nothing."""
    check_empty(options.images_dir)
    open_parent(options.images_dir, options.prev_images_dir)
    if options.tls is not None:
        tls.check(options.tls, server_side=True)


def _session(options: ReceiveOptions, connection: socket.socket, name: str, log: logging.Logger) -> Optional[Manifest]:
    """Return what the client of CONNECTION, called NAME, has sent; None, and all that came is gone, if it was no whole dump."""
    try:
        with ReceivingDirectory(options.images_dir, options.prev_images_dir) as directory:
            _serve(directory, connection, options.timeout)
            manifest = directory.commit()
    except (TransferError, ChainError) as error:
        log.error("Refused what %s sent: %s", name, error)
        return None
    except (ImagesError, OSError) as error:
        log.error("What %s sent is lost: %s", name, error)
        return None
    try:
        connection.sendall(page_protocol.STATUS.pack(0))
        connection.settimeout(_FIRST_WORD)
        connection.recv(1)  # CRIU hangs up first, so that no port stays in TIME_WAIT here
    except OSError as error:
        log.warning("%s did not wait for the answer: %s", name, error)
    log.info("Received dump %s from %s", manifest.id, name)
    return manifest


def _serve(directory: ReceivingDirectory, connection: socket.socket, timeout: Optional[float]) -> None:
    """Take what comes over CONNECTION until it says that this was all. Raises TransferError, ImagesError, OSError."""
    image: Optional[ReceivedImage] = None
    connection.settimeout(_FIRST_WORD)
    while True:
        request = page_protocol.decode(_exactly(connection, page_protocol.SIZE))
        connection.settimeout(min(timeout or _SILENCE, _SILENCE))
        if request.command in page_protocol.CLOSES:
            return
        if request.command == page_protocol.PS_IOV_PARENT:
            connection.sendall(page_protocol.PARENT_ANSWER.pack(directory.in_parent(request.image, request.dump_id)))
        elif request.command in page_protocol.OPENS:
            image = directory.open(request.image, request.dump_id)
            if request.command == page_protocol.PS_IOV_OPEN2:
                connection.sendall(bytes([image.has_parent]))
        elif image is None or image.name != request.image:
            raise TransferError(f"pages of {request.image} come before it is opened; see who has connected")
        else:
            _take(image, request, connection)


def _take(image: ReceivedImage, request: Request, connection: socket.socket) -> None:
    run = Run(request.start, request.pages, request.in_parent)
    if run.in_parent:
        image.leave_to_parent(run)
    else:
        image.take(run, connection.recv_into)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise TransferError("the connection ended before the dump did; dump again")
        data += part
    return data


@contextmanager
def _locked(images_dir: str) -> Iterator[None]:
    """Keep others from filling IMAGES_DIR meanwhile (flock(2)). Raises ImagesError."""
    with faults("lock", images_dir):
        fd = os.open(images_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ImagesError(f"another dump is being written to images_dir {images_dir}; wait for it, or choose another") from error
    finally:
        os.close(fd)
