# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The images of the last round as they come: files in a filesystem that nobody else sees and that ends with us."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from ..errors import ImagesError, KernelError, MoveError
from ..images.chain import Chain, Extent, as_chain_error, open_chain
from ..images.cursor import Cursor
from ..images.pagemap import PAGE_SIZE
from ..images.ranges import Range, merged
from ..kernel.mount import Filesystem

_NAME = re.compile(r"[a-z][a-z0-9-]{0,60}\.img|stillframe\.json")
_MOST_FILES = 1 << 16


class PrivateDirectory:
    """A directory in memory, mounted nowhere: it is gone when we are, however we end. A context manager, which returns its path."""

    def __init__(self) -> None:
        self._mount = -1

    def __enter__(self) -> str:
        try:
            with Filesystem("tmpfs", "stillframe", ("mode=700",)) as filesystem:
                self._mount = filesystem.mount()
        except OSError as error:
            raise KernelError(f"no filesystem in memory can be made ({error}); run as root") from error
        return f"/proc/self/fd/{self._mount}"

    def __exit__(self, *exc: object) -> None:
        os.close(self._mount)


class Incoming:
    """Image files while they come, one after the other. A context manager."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = -1
        self._left = 0
        self._count = 0

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def begin(self, name: str, size: int) -> None:
        """Begin file NAME of SIZE bytes. Raises MoveError for a name that no image has, or that came before."""
        self.end()
        self._count += 1
        if not _NAME.fullmatch(name) or size < 0 or self._count > _MOST_FILES:
            raise MoveError(f"an image of the name {name[:80]!r} came, which none has; see who is at the other end")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(os.path.join(self._directory, name), flags, 0o600)
        except OSError as error:
            raise MoveError(f"image {name} cannot be written ({error.strerror}); move again") from error
        self._left = size

    def write(self, data: memoryview) -> None:
        """Add DATA to the file. Raises MoveError for more than was announced, and when memory is short."""
        if self._fd < 0 or len(data) > self._left:
            raise MoveError("more of an image came than was announced; see who is at the other end")
        self._left -= len(data)
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError as error:
                raise MoveError(f"the last round cannot be kept ({error.strerror}); make memory free") from error

    def end(self) -> None:
        """End the file. Raises MoveError when it is not whole."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._left:
                raise MoveError("an image ended before it was whole; move again")


@dataclass(frozen=True)
class ReceivedChain(Chain):
    """The images of the last round. The pages that their pagemaps leave to a parent are in memory already."""

    known: dict[str, tuple[list[Extent], list[Range]]] = field(default_factory=dict)
    """What `_read` has found: the tree stands still while it is asked for, more than once."""

    @staticmethod
    def open(path: str) -> ReceivedChain:
        """Return the images in directory PATH. Raises ChainError."""
        return ReceivedChain(open_chain(path, verify=False).dumps)

    def verify_images(self) -> None:
        """Do nothing: each frame was verified as it came, and nobody else has this directory."""

    def verify_pages(self, good: Container[str] = ()) -> None:
        """Do nothing, for the same reason."""

    def _pieces(self, name: str) -> Iterator[Extent]:
        return iter(self._read(name)[0])

    def counted_on(self, name: str) -> list[Range]:
        """Return the addresses whose pages pagemap NAME leaves to the rounds before. Raises ChainError."""
        return self._read(name)[1]

    def _read(self, name: str) -> tuple[list[Extent], list[Range]]:
        """Return where the pages of pagemap NAME are: in the images, and in memory."""
        if name not in self.known:
            cursor = Cursor(self.top.path, self.top.manifest, name)
            here: list[Extent] = []
            there: list[Range] = []
            try:
                for run, first in cursor.steps():
                    if run.in_parent:
                        there.append((run.start, run.end))
                    else:
                        here.append(Extent(run.start, run.pages, cursor.pages_path, first * PAGE_SIZE))
            except ImagesError as error:
                raise as_chain_error(error) from error
            finally:
                cursor.close()
            self.known[name] = here, list(merged(there))
        return self.known[name]
