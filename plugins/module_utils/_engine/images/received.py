# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory that a page server fills: pagemaps and pages under other names, until all of them are there.

The rest of the dump, its inventory too, is made where the tree was and copied there later. So what is whole is told by a manifest
of its own, `stillframe-pages.json`, which is written last; the checksums in it are those of the bytes that came in.
"""

from __future__ import annotations

import os
import re
import uuid
from array import array
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from types import TracebackType

from ..errors import ImagesError, TransferError
from .chain import Chain, open_chain
from .checksum import STRETCH, Checksummer, fastest
from .cursor import Cursor, locate
from .directory import PARENT, dump_files, parent_path
from .fault import faults
from .image import ImagesDir
from .magic import SUFFIX
from .manifest import PAGE_SERVER, PARTIAL, PRE_DUMP, RECEIVED_NAME, ImageRecord, Manifest, PagesRecord, write_manifest
from .pagemap import PAGE_SIZE, Run, pages_path, write_runs

_FIRST_PAGES_ID = 0x10001
"""As in CRIU's page server: a dump in the same directory counts from 1 (up_page_ids_base)."""

_LEFT_OVER = re.compile(r"(pages-\d+|pagemap-(shmem-)?\d+)" + re.escape(SUFFIX + PARTIAL))
"""What only a page server writes: a dump makes its pages under their own names."""

Source = Callable[[memoryview], int]
"""Fills the beginning of what it is given and returns how much, 0 at the end."""


class ReceivedImage:
    """One pagemap and its pages while they come in."""

    def __init__(self, images_dir: str, name: str, pages_id: int, cursors: list[Cursor]) -> None:
        self.name = name
        self.pages_name = f"pages-{pages_id}{SUFFIX}"
        self._images_dir = images_dir
        self._pages_id = pages_id
        self._cursors = cursors
        self._runs = array("Q")
        """Of each run the address, and the number of pages, shifted, with whether they are in the parent: there may be millions."""
        self._checksummer = Checksummer(fastest())
        self._checksums: list[str] = []
        self._size = 0
        self._buffer = memoryview(bytearray(STRETCH))
        self._filled = 0
        self._path = pages_path(images_dir, pages_id) + PARTIAL
        with faults("create", self._path):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @property
    def has_parent(self) -> bool:
        """Whether the parent has this image, so that pages can be left to it."""
        return bool(self._cursors)

    def leave_to_parent(self, run: Run) -> None:
        """Take note of RUN, which the parent has to hold. Raises TransferError, ImagesError."""
        if not self._cursors:
            raise TransferError(f"pages at {run.start:#x} of {self.name} are left to a parent that is not here; give prev_images_dir")
        for _page in locate(self._cursors, 0, run.start, run.end):
            pass
        self._add(run)

    def take(self, run: Run, source: Source) -> None:
        """Write the pages of RUN from SOURCE. Raises TransferError, ImagesError."""
        self._add(run)
        left = run.pages * PAGE_SIZE
        while left:
            got = source(self._buffer[self._filled : min(STRETCH, self._filled + left)])
            if not got:
                raise TransferError(f"the connection ended within pages of {self.name}; dump again")
            self._filled, left = self._filled + got, left - got
            if self._filled == STRETCH:
                self._flush()

    def _add(self, run: Run) -> None:
        words, tail = self._runs, run.pages << 1 | run.in_parent
        if words and run.start < words[-2] + (words[-1] >> 1) * PAGE_SIZE:
            raise TransferError(f"pages at {run.start:#x} of {self.name} come after others behind them; see who has connected")
        if words and words[-2] + (words[-1] >> 1) * PAGE_SIZE == run.start and words[-1] & 1 == run.in_parent:
            words[-1] += run.pages << 1
        else:
            words.extend((run.start, tail))

    def _flush(self) -> None:
        data = self._buffer[: self._filled]
        self._checksums.append(self._checksummer.of(data))
        while data:
            with faults("write", self._path):
                data = data[os.write(self._fd, data) :]
        self._size, self._filled = self._size + self._filled, 0

    def finish(self) -> tuple[ImageRecord, PagesRecord]:
        """Bring all to disk, still under other names. Raises ImagesError."""
        if self._filled:
            self._flush()
        with faults("write", self._path):
            os.fsync(self._fd)
        images = ImagesDir(self._images_dir)
        words = self._runs
        runs = (Run(words[at], words[at + 1] >> 1, bool(words[at + 1] & 1)) for at in range(0, len(words), 2))
        write_runs(images, self.name, self._pages_id, runs, PARTIAL)
        path = images.file(self.name) + PARTIAL
        with faults("write", path), open(path, "rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            return ImageRecord(size, self._checksummer.whole(file.fileno(), size)), PagesRecord(self._size, tuple(self._checksums))

    def close(self) -> None:
        """Close what is open; what was written stays."""
        for cursor in self._cursors:
            cursor.close()
        os.close(self._fd)


class ReceivingDirectory:
    """What comes in from one client, as a context: what is not committed is removed at its end."""

    def __init__(self, images_dir: str, prev_images_dir: str | None) -> None:
        self._path = images_dir
        self._parent = open_parent(images_dir, prev_images_dir)
        self._link = prev_images_dir
        self._current: ReceivedImage | None = None
        self._images: dict[str, ImageRecord] = {}
        self._pages: dict[str, PagesRecord] = {}
        self._made: list[str] = []
        self._dump_id = ""
        self._linked = ""
        self._committed = False

    def __enter__(self) -> ReceivingDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._current is not None:
            self._current.close()
        if not self._committed:
            paths = [os.path.join(self._path, name) for name in self._made]
            for path in [*paths, *(path + PARTIAL for path in paths), self._linked]:
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def in_parent(self, name: str, parent_id: str) -> bool:
        """Return whether image NAME is in the parent, and that is dump PARENT_ID if the client tells one."""
        return self._parent is not None and parent_id in ("", self._parent.dump_id) and self._parent.top.images.has(name)

    def open(self, name: str, dump_id: str) -> ReceivedImage:
        """Begin with image NAME of the dump DUMP_ID, which is empty when the client does not tell. Raises TransferError, ImagesError."""
        self._finish_current()
        if name + SUFFIX in self._images or self._dump_id not in ("", dump_id):
            raise TransferError(f"{name} comes twice, or in a dump of its own; see who has connected")
        self._dump_id = dump_id
        dumps = self._parent.dumps if self._parent is not None and self.in_parent(name, "") else ()
        cursors = [Cursor(dump.path, dump.manifest, name) for dump in dumps]
        number = _FIRST_PAGES_ID + len(self._images)
        self._made += [f"pages-{number}{SUFFIX}", name + SUFFIX]
        self._current = ReceivedImage(self._path, name, number, cursors)
        return self._current

    def _finish_current(self) -> None:
        if self._current is not None:
            image, pages = self._current.finish()
            self._images[self._current.name + SUFFIX], self._pages[self._current.pages_name] = image, pages
            self._current.close()
            self._current = None

    def commit(self) -> Manifest:
        """Make what came in the pages of a dump. Raises ImagesError, TransferError; then nothing of it stays."""
        self._finish_current()
        if not self._images:
            raise TransferError("the client has sent no pages; see who has connected")
        manifest = Manifest(
            id=self._dump_id or str(uuid.uuid4()),
            kind=PRE_DUMP,
            parent_id=self._parent.dump_id if self._parent is not None else "",
            made_by=PAGE_SERVER,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            page_size=PAGE_SIZE,
            algorithm=fastest(),
            images=self._images,
            pages=self._pages,
        )
        self._link_parent()
        for name in self._made:
            path = os.path.join(self._path, name)
            with faults("commit", path):
                os.rename(path + PARTIAL, path)
        self._made.append(RECEIVED_NAME)
        write_manifest(self._path, manifest, RECEIVED_NAME)
        self._committed = True
        _sync_directory(self._path)
        return manifest

    def _link_parent(self) -> None:
        """Make `parent` lead to the parent; one that the client's side has put there already is put right."""
        if self._parent is None or self._link is None:
            return
        link, path = os.path.join(self._path, PARENT), parent_path(self._path, self._link)
        with faults("create", link):
            if os.path.islink(link):
                os.unlink(link)
            else:
                self._linked = link
            os.symlink(os.path.relpath(os.path.realpath(path), os.path.realpath(self._path)), link)


def open_parent(images_dir: str, prev_images_dir: str | None) -> Chain | None:
    """Return the chain that is to be built on, with its pagemaps checked. Raises ImagesError, ChainError."""
    if prev_images_dir is None:
        return None
    chain = open_chain(parent_path(images_dir, prev_images_dir), verify=False, pages_only=True)
    chain.verify_images()
    return chain


def check_empty(images_dir: str) -> None:
    """Raise ImagesError when pages cannot be received in IMAGES_DIR: it holds a dump, or cannot be written."""
    found = [name for name in dump_files(images_dir) if name != "stats-dump" and not _LEFT_OVER.fullmatch(name)]
    if found:
        raise ImagesError(f"images_dir {images_dir} already holds files of a dump ({found[0]}); choose an empty directory")
    if not os.access(images_dir, os.W_OK | os.X_OK):
        raise ImagesError(f"images_dir {images_dir} cannot be written to; check its owner, its mode and how its filesystem is mounted")


def remove_left_over(images_dir: str) -> None:
    """Remove what a page server left in IMAGES_DIR that was killed; the caller has locked it. Raises ImagesError."""
    for name in filter(_LEFT_OVER.fullmatch, dump_files(images_dir)):
        with faults("remove", os.path.join(images_dir, name)):
            os.unlink(os.path.join(images_dir, name))


def _sync_directory(path: str) -> None:
    with faults("commit", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
