# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump with all its parents, and where in them each page of it lies.

Nothing in the files is believed: what is missing, cut short, changed or of another dump raises ChainError before a page is used.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ChainError, ImagesError
from .checksum import stretches_of
from .cold import has_cold
from .cursor import Cursor, locate
from .directory import INVENTORY, PARENT, is_dump, is_dump_file
from .image import ImagesDir
from .inventory import version_and_kind
from .magic import IMAGES_V1_1
from .manifest import PAGE_SERVER, PRE_DUMP, STILLFRAME, Manifest, is_received, read_manifest
from .pagemap import PAGE_SIZE, Run, iterate_runs
from .ranges import total
from .verification import verify_image, verify_images, verify_pages


@dataclass(frozen=True)
class Dump:
    """One dump of a chain."""

    path: str
    """Its directory."""
    kind: str
    """dump or pre-dump."""
    finished: bool
    """Whether its inventory is good: not there for a parent of which a page server has received the pages, and no more was copied."""
    manifest: Manifest | None
    """None for a dump made by CRIU."""
    cold: bool = False
    """Whether any of its pages files are there compressed only."""

    @property
    def id(self) -> str:
        """UUID of the dump; empty for one made by CRIU."""
        return self.manifest.id if self.manifest else ""

    @property
    def parent_id(self) -> str:
        """UUID of the dump that it was made on top of; empty for a full dump and for one made by CRIU."""
        return self.manifest.parent_id if self.manifest else ""

    @property
    def inventory(self) -> Any:
        """The message of its inventory. Raises ImagesError."""
        return self.images.read_one("inventory")

    @property
    def images(self) -> ImagesDir:
        """The images of the dump."""
        return ImagesDir(self.path)

    def pagemaps(self) -> list[str]:
        """Return the names of its pagemaps ("pagemap-123", "pagemap-shmem-5")."""
        return [name for name in self.images.names() if name.startswith("pagemap-")]

    def covered(self, pid: int) -> str:
        """Return the name of the image that tells which private pages of PID this dump holds or leaves to its parent; empty if none does.

        Where the pages were sent to a page server, that is what was kept of its pagemap.
        """
        return next((name for name in (f"pagemap-{pid}", f"sent-pagemap-{pid}") if self.images.has(name)), "")


class Extent(NamedTuple):
    """Adjacent pages that lie side by side in one pages file."""

    start: int
    """Address of the first page, as in the pagemap."""
    pages: int
    path: str
    """The pages file."""
    offset: int
    """In bytes."""


@dataclass(frozen=True)
class Chain:
    """A dump and its parents, found whole by `open_chain`."""

    dumps: tuple[Dump, ...]
    """Newest first."""

    @property
    def top(self) -> Dump:
        """The dump that was opened."""
        return self.dumps[0]

    @property
    def dump_id(self) -> str:
        """UUID of the dump that was opened; empty for one made by CRIU."""
        return self.top.id

    def below(self, level: int) -> Chain:
        """Return the chain that the dump at LEVEL, 0 being the newest, makes with its own parents."""
        return Chain(self.dumps[level:])

    def extents(self, name: str) -> list[Extent]:
        """Return where the pages of pagemap NAME lie, by ascending address, adjacent ones joined. Raises ChainError."""
        return list(self.iterate_extents(name))

    def iterate_extents(self, name: str) -> Iterator[Extent]:
        """Yield what `extents` returns, one by one: it takes the same memory however many there are."""
        last: Extent | None = None
        for piece in self._pieces(name):
            if last is None:
                last = piece
            elif _adjoins(last, piece):
                last = Extent(last.start, last.pages + piece.pages, last.path, last.offset)
            else:
                yield last
                last = piece
        if last is not None:
            yield last

    def runs_of(self, name: str) -> Iterator[Run]:
        """Yield the runs of pagemap NAME of the newest dump: pages that it can give, be they its own or a parent's. Raises ImagesError."""
        return iterate_runs(self.top.images, name)

    def restorable(self) -> bool:
        """Return whether the newest dump can be restored: it is no pre-dump, and dedup has freed none of its pages."""
        return not self.obstacle()

    def obstacle(self) -> str:
        """Return in a sentence why the newest dump cannot be restored, empty when it can. Raises ChainError for a damaged chain."""
        if self.top.kind == PRE_DUMP:
            return f"{self.top.path} is a pre-dump: it holds memory only; restore a dump that was made on top of it"
        manifest = self.top.manifest
        if manifest and manifest.page_server and not self.top.pagemaps():
            return f"the pages of {self.top.path} were sent to {manifest.page_server}; copy its images beside them, and restore it there"
        if self._cold():
            return self._cold()
        lost = sum(total(record.gone) for record in self.top.manifest.pages.values()) if self.top.manifest else 0
        if lost:
            return f"dedup freed {lost} pages of {self.top.path}, since a newer dump holds them; restore that newer dump"
        if any(record.gone for dump in self.dumps if dump.manifest for record in dump.manifest.pages.values()):
            try:
                for name in self.top.pagemaps():
                    for _piece in self._pieces(name):
                        pass
            except ChainError as error:
                return str(error)
        return ""

    def verify(self) -> None:
        """Check what a restore of the newest dump needs: `verify_images` and `verify_pages`. Raises ChainError for the first fault."""
        self.verify_images()
        self.verify_pages()

    def check_ready(self) -> None:
        """Raise ChainError when one of the dumps is compressed."""
        if self._cold():
            raise ChainError(self._cold())

    def _cold(self) -> str:
        """Return in a sentence that one of the dumps is compressed, empty when none is."""
        cold = next((dump.path for dump in self.dumps if dump.cold), "")
        return f"{cold} is compressed; make it ready first: stillframe decompress --images-dir {cold}" if cold else ""

    def verify_images(self) -> None:
        """Check every image of the newest dump, and of its parents the pagemaps; `open_chain` did the inventories. Raises ChainError.

        A chain of which anything is compressed is none that can be used.
        """
        self.check_ready()
        verify_images(self.top.path, self.top.manifest)
        for dump in self.dumps[1:]:
            for name in dump.pagemaps():
                verify_image(dump.path, dump.manifest, name)

    def verify_pages(self, good: Container[str] = ()) -> None:
        """Check that all pages of the newest dump are there, and every stretch that holds one of them. Raises ChainError.

        GOOD are the paths of pages files that are known to be right.
        """
        needed: dict[str, set[int]] = {}
        for name in self.top.pagemaps():
            for extent in self.iterate_extents(name):
                needed.setdefault(extent.path, set()).update(stretches_of(extent.offset, extent.pages * PAGE_SIZE))
        manifests = {dump.path: dump.manifest for dump in self.dumps}
        for path, stretches in needed.items():
            if path in good:
                continue
            verify_pages(path, manifests[os.path.dirname(path)], stretches)

    def _pieces(self, name: str) -> Iterator[Extent]:
        """Yield the extents of pagemap NAME, not joined."""
        cursors = [Cursor(dump.path, dump.manifest, name) for dump in self.dumps]
        try:
            for run, first in cursors[0].steps():
                for address, pages, level, index in _located(cursors, run, first):
                    yield Extent(address, pages, cursors[level].pages_path, index * PAGE_SIZE)
        except ImagesError as error:
            raise as_chain_error(error) from error
        finally:
            for cursor in cursors:
                cursor.close()


def open_chain(path: str, verify: bool = True, pages_only: bool = False) -> Chain:
    """Return the chain of the dump in directory PATH with all its parents; with PAGES_ONLY it may be what a page server received.

    With VERIFY, everything that a restore of it needs is read and checked first, at the speed of the disk. Raises ChainError
    in one sentence for what is missing, cut short, changed, of another dump, or of a newer format.
    """
    dumps: list[Dump] = []
    seen: set[str] = set()
    here: str | None = path.rstrip("/") or "/"
    while here is not None:
        real = os.path.realpath(here)
        if real in seen:
            raise leads_back(dumps[-1], here)
        seen.add(real)
        dump = open_dump(here, dumps[-1] if dumps else None, pages_only or bool(dumps))
        dumps.append(dump)
        here = parent_of(dump)
    chain = Chain(tuple(dumps))
    if verify:
        chain.verify()
    return chain


def leads_back(dump: Dump, to: str) -> ChainError:
    """Return what is said when the parent of DUMP is TO, which builds on DUMP."""
    link = os.path.join(dump.path, PARENT)
    return ChainError(f"{link} leads back to {to}; let it lead to the dump that it was made on top of", link)


def as_chain_error(error: ImagesError) -> ChainError:
    """Return ERROR as a ChainError: what is wrong with one image is wrong with the chain that needs it."""
    return error if isinstance(error, ChainError) else ChainError(str(error), error.path, error.offset)


def open_dump(path: str, child: Dump | None = None, pages_only: bool = False) -> Dump:
    """Return the dump in directory PATH, the parent of CHILD where there is one. Raises ChainError where `open_chain` does."""
    if not os.path.isdir(path):
        if child is None:
            raise ChainError(f"{path} is not a directory; give the directory of a dump")
        text = f"{path}, the parent of {child.path}, is missing; put it back there, or use a full dump"
        raise ChainError(text, os.path.join(child.path, PARENT))
    if pages_only and not is_dump(path) and is_received(path):
        received = Dump(path, PRE_DUMP, False, read_manifest(path))
        return received if child is None else _related(child, received)
    if not is_dump(path):
        role = "" if child is None else f", the parent of {child.path},"
        raise ChainError(f"{path}{role} holds no finished dump (no {INVENTORY}); use one that was finished", os.path.join(path, INVENTORY))
    for name in strange_files(path):
        raise ChainError(f"{os.path.join(path, name)} is no regular file; use another copy of the dump", os.path.join(path, name))
    manifest = read_manifest(path)
    verify_image(path, manifest, "inventory")
    try:
        version, kind = version_and_kind(ImagesDir(path))
    except ImagesError as error:
        raise as_chain_error(error) from error
    if version > IMAGES_V1_1:
        raise ChainError(f"{path}/{INVENTORY} has image version {version}, known here {IMAGES_V1_1}; use a newer Stillframe")
    dump = Dump(path, kind, True, manifest, has_cold(path))
    return dump if child is None else _related(child, dump)


def strange_files(path: str) -> list[str]:
    """Return the names in PATH of what goes by the name of an image and is none: a named pipe would be waited for without end."""
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if is_dump_file(entry.name) and entry.name != PARENT and not entry.is_file()]


def parent_of(dump: Dump) -> str | None:
    """Return the directory of the parent of DUMP, None for a full dump. Raises ChainError when the link to it is gone."""
    link = os.path.join(dump.path, PARENT)
    if not os.path.lexists(link):
        if dump.parent_id:
            raise ChainError(f"{link} is missing, though the dump was made on top of dump {dump.parent_id}; link it to that one", link)
        return None
    return os.path.realpath(link)


def _related(child: Dump, parent: Dump) -> Dump:
    """Return PARENT; raise ChainError when CHILD was not made on top of it, as far as their manifests tell."""
    if child.manifest is None or child.manifest.made_by not in (STILLFRAME, PAGE_SERVER):
        return parent
    if child.parent_id != parent.id:
        raise ChainError(
            f"{child.path} was made on top of dump {child.parent_id or 'none'}, but its parent {parent.path} holds dump "
            f"{parent.id or '(made by CRIU)'}; put the right one there"
        )
    mine, its = child.manifest.tree, parent.manifest.tree if parent.manifest else None
    if its is not None and its.pid and mine.pid and mine.pid != its.pid:
        raise ChainError(f"{child.path} is of the tree of process {mine.pid}, its parent {parent.path} of {its.pid}; put the right one in")
    return parent


def _located(cursors: list[Cursor], run: Run, first: int) -> Iterator[tuple[int, int, int, int]]:
    if run.in_parent:
        return locate(cursors, 1, run.start, run.end)
    cursors[0].check_kept(run.start, first, run.pages)
    return iter([(run.start, run.pages, 0, first)])


def _adjoins(last: Extent, piece: Extent) -> bool:
    size = last.pages * PAGE_SIZE
    return piece.start == last.start + size and piece.path == last.path and piece.offset == last.offset + size
