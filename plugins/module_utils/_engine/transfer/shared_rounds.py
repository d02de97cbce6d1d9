# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that tasks share, as the source of a move sends it: in every round what is not as it was sent before.

An object that is not met in a round is forgotten by both ends. Huge pages are left to the images: the pool at the other end is
to have room for them once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from ..errors import UnsupportedError
from ..images.checksum import STRETCH
from ..images.image import ImagesDir
from ..images.pagemap import PAGE_SIZE
from ..images.ranges import Range, total
from ..images.shared_objects import VMA_AREA_SYSVIPC
from ..kernel import procfs
from ..progress import Progress, uncounted
from ..resources.files.dump import FilesDump
from ..resources.files.memfd import F_SEAL_SEAL
from ..resources.memory import mapping
from ..resources.memory.shared import SharedMemory, SharedObject
from ..resources.memory.sysv import SysvDump
from .codec import ObjectFacts, pack_object, pack_pages
from ..resources.memory.seen import Change, Emptied, SeenObject
from .wire import HOLES, OBJECT, SHARED, Link

_BLOCK = 512
"""Bytes that st_blocks counts (stat(2))."""


def mapped(areas: Mapping[int, Sequence[mapping.Mapping]], files: FilesDump, segments: SysvDump) -> list[SharedObject]:
    """Return the objects that processes map in AREAS, which are open until FILES and SEGMENTS are closed.

    The processes may run: what one does not map any more is left to the next round.
    """
    for pid, found in areas.items():
        for one in found:
            with suppress(UnsupportedError, *procfs.GONE):  # something else took its place
                if one.status & mapping.VMA_AREA_MEMFD:
                    mapping.dump_mappings(pid, [one], files)
                elif one.status & VMA_AREA_SYSVIPC:
                    segments.add(pid, [one])
    return files.memory_objects() + segments.objects()


class SharedRounds:
    """The objects of a tree through all rounds of its move."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._known: dict[tuple[object, ...], tuple[int, SeenObject]] = {}
        self._count = 0
        self.pages = 0
        """Pages sent in the last round."""
        self.look_time = 0.0
        """Seconds that reading and comparing took in it."""

    def send(self, objects: Sequence[SharedObject], progress: Progress) -> None:
        """Send what has changed of OBJECTS, all that there are. Raises MoveError, OSError."""
        progress.begin(sum(os.fstat(one.local).st_blocks * _BLOCK for one in objects))
        self._send_all(objects, False, progress.add)

    def send_last(self, objects: Sequence[SharedObject]) -> None:
        """Do the same when the tree stands still."""
        self._send_all(objects, True, uncounted)

    def _send_all(self, objects: Sequence[SharedObject], last: bool, count: Callable[[int], None]) -> None:
        self.pages, self.look_time = 0, 0.0
        known, self._known = self._known, {}
        for one in objects:
            if not one.huge:
                kind = _kind(one)
                number, seen = known.get(kind) or (self._next(), SeenObject())
                self._known[kind] = number, seen
                facts = _facts(one, number, last)
                self._link.send(OBJECT, pack_object(facts))
                self._send_changes(number, seen.changes(one.local, facts.size, count))

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _send_changes(self, number: int, changes: Iterable[Change]) -> None:
        ranges: list[Range] = []
        parts: list[bytes] = []
        size, since = 0, time.monotonic()
        for change in changes:
            if isinstance(change, Emptied):
                self._link.send(HOLES, _packed(number, change.ranges))
                continue
            ranges += change.ranges
            parts.append(bytes(change.data))
            size += len(change.data)
            if size >= STRETCH:
                self.look_time += time.monotonic() - since
                self._send(number, ranges, parts)
                ranges, parts, size, since = [], [], 0, time.monotonic()
        self.look_time += time.monotonic() - since
        if parts:
            self._send(number, ranges, parts)

    def _send(self, number: int, ranges: Sequence[Range], parts: Sequence[bytes]) -> None:
        self._link.send(SHARED, _packed(number, ranges), *parts)
        self.pages += total(ranges) // PAGE_SIZE


class LastShared:
    """Their content in the stop: what has changed is sent, and only huge pages go into images, in a directory."""

    def __init__(self, rounds: SharedRounds, images_dir: str) -> None:
        self._rounds = rounds
        self._huge = SharedMemory(images_dir)

    @property
    def pages(self) -> int:
        """Pages sent or written."""
        return self._rounds.pages + self._huge.pages

    @property
    def pages_in_parent(self) -> int:
        """None: what did not change is not counted."""
        return 0

    def look_ahead(self) -> None:
        """Do nothing: all is known from the rounds."""

    def copy(self, first_id: int, objects: Sequence[SharedObject]) -> None:
        """Send or write the content of OBJECTS; the tree stands still. Raises MoveError, ImagesError, OSError."""
        self._rounds.send_last(objects)
        self._huge.copy(first_id, [one for one in objects if one.huge])

    def write_images(self, images: ImagesDir) -> None:
        """Write the pagemaps of the huge pages."""
        self._huge.write_images(images)


def _kind(one: SharedObject) -> tuple[object, ...]:
    """Return what tells an object from others, and from what it would be when it were made again."""
    status, facts = os.fstat(one.local), _facts(one, 0, False)
    return status.st_dev, status.st_ino, facts.name, facts.sealable


def _facts(one: SharedObject, number: int, last: bool) -> ObjectFacts:
    name, sealable = ("", True) if one.entry is None else (one.entry.name, one.entry.seals != F_SEAL_SEAL)
    return ObjectFacts(number, one.shmid if last else 0, name, os.fstat(one.local).st_size, sealable)


def _packed(number: int, ranges: Sequence[Range]) -> bytes:
    return pack_pages(number, [(start, end - start) for start, end in ranges])
