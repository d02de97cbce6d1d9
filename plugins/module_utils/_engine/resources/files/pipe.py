# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pipes, with what is in them and their size.

images: files.img (pipe_entry, one for each open end), pipes-data (size and content, once for each pipe that is read in the tree).
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...errors import Obstacle, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile
from .status import O_LARGEFILE, set_flags

F_SETPIPE_SZ = 1031
F_GETPIPE_SZ = 1032
SPLICE_F_NONBLOCK = 2
PIPE = "pipe:["


def is_pipe(file: OpenFile) -> bool:
    """Tell whether FILE is an end of a pipe without a name."""
    return stat.S_ISFIFO(file.stat.st_mode) and file.link.startswith(PIPE)


def reads(flags: int) -> bool:
    """Tell whether an end with these flags can be read."""
    return flags & os.O_ACCMODE != os.O_WRONLY


def writes(flags: int) -> bool:
    """Tell whether an end with these flags can be written."""
    return flags & os.O_ACCMODE != os.O_RDONLY


@dataclass(frozen=True)
class _Content:
    """What is in one pipe: its size in bytes, and a pipe of ours that shares its pages."""

    size: int
    bytes: int
    copy: int
    """The reading end of our pipe."""


class PipeContents:
    """The content of pipes and FIFOs, taken by tee(2): the pipe itself keeps it, and no byte is copied in the stop."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._contents: dict[int, _Content] = {}

    def take(self, pipe_id: int, local: int, flags: int) -> None:
        """Take the content of pipe PIPE_ID through LOCAL, once, by an end that can be read."""
        if pipe_id in self._contents or not reads(flags):
            return
        size = fcntl.fcntl(local, F_GETPIPE_SZ)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._contents[pipe_id] = _Content(size, 0, reader)
        try:
            fcntl.fcntl(writer, F_SETPIPE_SZ, size)
            self._contents[pipe_id] = _Content(size, syscall("tee", local, writer, size, SPLICE_F_NONBLOCK), reader)
        except BlockingIOError:  # it is empty
            return
        finally:
            os.close(writer)

    def write(self, images: ImagesDir) -> None:
        """Write the image."""
        if self._contents:
            images.write(self._image, list(self._entries()))

    def close(self) -> None:
        """Drop the copies."""
        for content in self._contents.values():
            os.close(content.copy)
        self._contents.clear()

    def _entries(self) -> Iterator[ImageEntry]:
        for pipe_id, content in self._contents.items():
            data = bytearray()
            while len(data) < content.bytes:
                data += os.read(content.copy, content.bytes - len(data))
            yield ImageEntry(message("pipe_data_entry")(pipe_id=pipe_id, bytes=content.bytes, size=content.size), bytes(data))


def fill_pipe(local: int, data: ImageEntry | None) -> None:
    """Give the pipe that LOCAL can write its size and content. RestoreError when it does not take all of it."""
    if data is None:
        return
    if data.message.HasField("size"):
        fcntl.fcntl(local, F_SETPIPE_SZ, data.message.size)
    os.set_blocking(local, False)
    rest = data.payload
    try:
        while rest:
            rest = rest[os.write(local, rest) :]
    except BlockingIOError as error:
        taken = len(data.payload) - len(rest)
        raise RestoreError(
            f"pipe {data.message.pipe_id:#x} takes only {taken} of {len(data.payload)} bytes; use another copy of the dump"
        ) from error


def read_contents(images: ImagesDir, image: str) -> dict[int, ImageEntry]:
    """Return the content of the pipes in IMAGE by their ids."""
    return {entry.message.pipe_id: entry for entry in images.entries(image)} if images.has(image) else {}


class PipeDump(KindDump):
    """Dumps both ends of pipes."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._contents = PipeContents("pipes-data")
        self._looked_at: set[int] = set()

    def check(self, file: OpenFile) -> Iterable[Obstacle]:
        """Refuse packet mode, whose boundaries tee(2) does not keep."""
        self._warn_once(file)
        if file.flags & os.O_DIRECT:
            yield file.obstacle("a pipe in packet mode (O_DIRECT), which cannot be carried", "have the program use a plain pipe")

    def collect(self, description: Description) -> Entry:
        """Return the pipe_entry of one end and take the content."""
        file = description.file
        pipe_id = file.stat.st_ino
        self._contents.take(pipe_id, file.local, file.flags)
        return message("pipe_entry")(id=description.file_id, pipe_id=pipe_id, flags=file.flags, fown=description.fown)

    def write(self, images: ImagesDir) -> None:
        """Write the content."""
        self._contents.write(images)

    def close(self) -> None:
        """Drop our copies."""
        self._contents.close()

    def _warn_once(self, file: OpenFile) -> None:
        if file.stat.st_ino not in self._looked_at:
            self._looked_at.add(file.stat.st_ino)
            warning = absent_end(self.context, file)
            if warning:
                self.context.warn(warning)


def absent_end(context: DumpContext, file: OpenFile) -> str:
    """Return a warning when the other end of a pipe is open outside of the tree and nowhere in it, else nothing."""
    ends = [other.flags for other in context.files_of(file.stat.st_ino) if other.stat.st_dev == file.stat.st_dev]
    if any(map(reads, ends)) and any(map(writes, ends)):
        return ""
    poll = select.poll()
    poll.register(file.local, 0)  # reports POLLHUP or POLLERR when there is no other end at all
    if poll.poll(0):
        return ""
    side, after = ("written", "reads the end of file") if reads(file.flags) else ("read", "gets SIGPIPE when it writes")
    who = f"process {file.pid}"
    return f"{who}, {file.where}: the pipe is {side} by a process outside of the tree; once restored, {who} {after}"


class PipeRestore(KindRestore):
    """Makes pipes, fills them, and opens further descriptions of their ends through /proc."""

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Open every end of every pipe."""
        contents = read_contents(self.context.images, "pipes-data")
        pipes: dict[int, list[tuple[int, Entry]]] = {}
        for file_id, entry in entries.items():
            pipes.setdefault(entry.pipe_id, []).append((file_id, entry))
        found: dict[int, int] = {}
        for pipe_id, ends in pipes.items():
            found.update(self._open_pipe(ends, contents.get(pipe_id)))
        return found

    def _open_pipe(self, ends: Iterable[tuple[int, Entry]], data: ImageEntry | None) -> dict[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        unused = {os.O_RDONLY: reader, os.O_WRONLY: writer}
        found: dict[int, int] = {}
        try:
            fill_pipe(writer, data)
            for file_id, entry in ends:
                access = entry.flags & os.O_ACCMODE
                if access in unused and not entry.flags & O_LARGEFILE:
                    local = os.dup(unused.pop(access))
                else:  # an end with O_LARGEFILE was itself opened through /proc
                    local = os.open(f"/proc/self/fd/{reader}", access | os.O_NONBLOCK | os.O_CLOEXEC)
                set_flags(local, entry.flags)
                found[file_id] = self.context.keep(local)
        finally:
            os.close(reader)
            os.close(writer)
        return found


PIPES = Kind("PIPE", "pipe", is_pipe, PipeDump, PipeRestore)
