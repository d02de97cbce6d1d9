# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The directory of one dump while it is made: prepared, filled, and committed by one last rename.

`inventory.img` is what makes a directory a dump: neither CRIU nor we restore without it, nor take it for a parent. So it is
written last, under another name, and renamed when all else is on disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from ..errors import ImagesError
from .checksum import Checksummer, fastest
from .cold import ZST
from .fault import faults
from .image import ImagesDir
from .kept import DIRECTORY as KEPT
from .kept import kept_names, remove_kept
from .magic import SUFFIX
from .manifest import FILE_NAME, PARTIAL, RECEIVED_NAME, ImageRecord, Manifest, PagesRecord, is_received, write_manifest

_SYNCERS = 16
INVENTORY = "inventory" + SUFFIX
PARENT = "parent"
"""The relative symbolic link to the dump that this one counts from."""
PAGES = "pages-"
"""How the names of pages files start."""


def is_dump(images_dir: str) -> bool:
    """Return whether IMAGES_DIR holds a committed dump or pre-dump, ours or CRIU's."""
    return os.path.isfile(os.path.join(images_dir, INVENTORY))


def dump_files(images_dir: str) -> list[str]:
    """Return the names in IMAGES_DIR that belong to a dump, whole or half, kept files too; logs do not. Raises ImagesError."""
    with faults("list", images_dir):
        return sorted([name for name in os.listdir(images_dir) if is_dump_file(name)] + kept_names(images_dir))


def pages_files(images_dir: str) -> list[str]:
    """Return the paths of the pages files in IMAGES_DIR, those that are compressed aside. Raises ImagesError."""
    return [os.path.join(images_dir, name) for name in dump_files(images_dir) if name.startswith(PAGES) and name.endswith(SUFFIX)]


def bytes_on_disk(images_dir: str) -> int:
    """Return what the files of the dump in IMAGES_DIR take on disk (st_blocks), not counting its parents. Raises ImagesError."""
    with faults("read", images_dir):
        return sum(os.lstat(os.path.join(images_dir, name)).st_blocks * 512 for name in dump_files(images_dir))


def is_dump_file(name: str) -> bool:
    """Return whether NAME is that of a file that belongs to a dump, whole or half."""
    name = name.removesuffix(PARTIAL)
    compressed = name.startswith(PAGES) and name.endswith(SUFFIX + ZST)
    return compressed or name.endswith(SUFFIX) or name in (PARENT, FILE_NAME, RECEIVED_NAME, "stats-dump")


def parent_link(path: str) -> str:
    """Return the directory that the dump in PATH, finished or not, counts on; empty when it is a full one."""
    link = os.path.join(path, PARENT)
    return os.path.realpath(link) if os.path.lexists(link) else ""


class DumpDirectory:
    """The directory of a dump being made, as a context: what is not committed in it is removed at its end.

    The directory is locked (flock(2)) meanwhile, so that two dumps do not fill it together.
    """

    def __init__(self, path: str, force: bool = False, lasting: bool = True) -> None:
        """LASTING: whether it is to outlive the machine's power; one in memory cannot."""
        self.path = path
        self.images = ImagesDir(path)
        self._force = force
        self._lasting = lasting
        self._lock = -1
        self._committed = False

    def check(self) -> None:
        """Raise ImagesError when no dump can be made here. Touches nothing."""
        if not os.path.exists(self.path):
            raise ImagesError(f"images_dir {self.path} does not exist; create it first")
        if not os.path.isdir(self.path):
            raise ImagesError(f"images_dir {self.path} is not a directory; give one")
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise ImagesError(f"images_dir {self.path} cannot be written to; check its owner, its mode and how its filesystem is mounted")
        found = dump_files(self.path)
        if found and not self._force:
            what = "a dump" if INVENTORY in found else f"files of an unfinished dump ({found[0]})"
            raise ImagesError(f"images_dir {self.path} already holds {what}; choose an empty directory, or use force to replace it")

    def __enter__(self) -> DumpDirectory:
        """Check, lock, and with force remove what an older dump left. Raises ImagesError."""
        self.check()
        with faults("lock", self.path):
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._unlock()
                raise ImagesError(f"another dump is being written to images_dir {self.path}; wait for it, or choose another") from error
        try:
            self.check()
            self._empty()
        except ImagesError:
            self._unlock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if not self._committed:
                self._empty()
        finally:
            self._unlock()

    def link_parent(self, prev_images_dir: str) -> str:
        """Make `parent` a relative link to PREV_IMAGES_DIR, which is relative to this directory, and return that directory's path.

        Raises ImagesError when there is no committed dump.
        """
        path = parent_path(self.path, prev_images_dir)
        target = os.path.relpath(os.path.realpath(path), os.path.realpath(self.path))
        link = os.path.join(self.path, PARENT)
        with faults("create", link):
            os.symlink(target, link)
        return path

    def commit(self, inventory: Any, manifest: Manifest, pages: Mapping[str, PagesRecord] | None = None) -> Manifest:
        """Make this a dump: complete MANIFEST with the checksums of all images, bring all to disk, and let INVENTORY appear last.

        PAGES holds the records of the pages files whose checksums were taken already, by file name; the others are taken here.
        Returns the manifest as written. Raises ImagesError; then this is no dump.
        """
        from concurrent.futures import ThreadPoolExecutor

        algorithm = manifest.algorithm or fastest()
        self.images.write("inventory", [inventory], suffix=PARTIAL)
        checksummer = Checksummer(algorithm)
        manifest = replace(
            manifest,
            algorithm=algorithm,
            created=manifest.created or _now(),
            images={name.removesuffix(PARTIAL): self._image(name, checksummer) for name in self._image_names()},
            pages={name: (pages or {}).get(name) or self._pages(name, checksummer) for name in self._pages_names()},
        )
        if self._lasting:
            names = [*dump_files(self.path), *([KEPT] if manifest.kept.files else [])]
            with ThreadPoolExecutor(_SYNCERS) as pool:  # side by side: the filesystem writes its journal once for many files
                for _done in pool.map(_sync, [os.path.join(self.path, name) for name in names if name != PARENT]):
                    pass
        write_manifest(self.path, manifest)
        inventory_path = os.path.join(self.path, INVENTORY)
        with faults("commit", self.path):
            os.fsync(self._lock)
            os.rename(inventory_path + PARTIAL, inventory_path)
            self._committed = True
            os.fsync(self._lock)
        return manifest

    def _image_names(self) -> list[str]:
        others = (PARENT, FILE_NAME, RECEIVED_NAME)
        return [name for name in dump_files(self.path) if name not in others and not name.startswith((PAGES, KEPT + os.sep))]

    def _pages_names(self) -> list[str]:
        return [name for name in dump_files(self.path) if name.startswith(PAGES)]

    def _image(self, name: str, checksummer: Checksummer) -> ImageRecord:
        path = os.path.join(self.path, name)
        with faults("read", path), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return ImageRecord(size, checksummer.whole(file.fileno(), size))

    def _pages(self, name: str, checksummer: Checksummer) -> PagesRecord:
        path = os.path.join(self.path, name)
        with faults("read", path), open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return PagesRecord(size, tuple(checksummer.stretches(file.fileno(), size)))

    def _empty(self) -> None:
        """Remove every file of a dump, the inventory first: from then on it is none."""
        for name in sorted(dump_files(self.path), key=lambda name: name != INVENTORY):
            path = os.path.join(self.path, name)
            with faults("remove", path):
                os.unlink(path)
        with faults("remove", self.path):
            remove_kept(self.path)

    def _unlock(self) -> None:
        os.close(self._lock)
        self._lock = -1


def parent_path(images_dir: str, prev_images_dir: str) -> str:
    """Return the path of PREV_IMAGES_DIR, which is relative to IMAGES_DIR. Raises ImagesError when there is no committed dump."""
    path = os.path.join(images_dir, prev_images_dir)
    if not os.path.isdir(path):
        raise ImagesError(f"prev_images_dir {path} is not a directory; give the path of the parent dump, relative to images_dir")
    if os.path.realpath(path) == os.path.realpath(images_dir):
        raise ImagesError(f"prev_images_dir {path} is images_dir itself; give the directory of an earlier dump")
    if not is_dump(path) and not is_received(path):
        raise ImagesError(f"prev_images_dir {path} holds no finished dump (no {INVENTORY}); give one that does, or make a full dump")
    return path


def _sync(path: str) -> None:
    with faults("write", path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a filesystem that cannot be told to
                raise
        finally:
            os.close(fd)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
