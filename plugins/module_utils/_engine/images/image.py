# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and writing the image files of one dump.

An image is the magic of its kind, then entries: the length of a message (32 bits, little endian), the message, and for
some kinds raw bytes.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message

from ..errors import ImagesError
from .fault import faults
from .magic import SUFFIX, Kind, find_kind, kind_of
from .payload import NO_PAYLOAD, PAYLOADS, ipc_messages

FILE_MODE = 0o600
_LENGTH = struct.Struct("<I")
_SMALL = 1 << 15
_AN_ENTRY = "the length of an entry"


@dataclass(frozen=True)
class Entry:
    """One entry of an image with the raw bytes that follow its message."""

    message: Any
    payload: bytes = b""


class ImagesDir:
    """The images of one dump: messages in and out by the name of the image ("core-123", "files", "stats-dump")."""

    def __init__(self, path: str) -> None:
        self.path = path

    def file(self, name: str) -> str:
        """Return the path of the image called NAME. Raises ImagesError for a name that CRIU does not have."""
        return os.path.join(self.path, name + kind_of(name).suffix)

    def write(self, name: str, entries: Iterable[Message | Entry], suffix: str = "") -> None:
        """Write image NAME, readable by its owner only, SUFFIX added to its file name.

        Raises ImagesError; a file half written is then left.
        """
        kind, path = kind_of(name), self.file(name) + suffix
        with faults("write", path), create(path) as file:
            file.write(kind.head)
            expected = _MessageNames(kind)
            for entry in entries:
                message, payload = (entry.message, entry.payload) if isinstance(entry, Entry) else (entry, b"")
                file.write(_encode(message, payload, expected, path))

    def read(self, name: str) -> list[Message]:
        """Return the messages of image NAME. Raises ImagesError that names file and offset when it can't be read."""
        return [entry.message for entry in self.iterate(name)]

    def read_one(self, name: str) -> Any:
        """Return the message of image NAME, which is of a kind that holds one. Raises ImagesError as `read` does."""
        messages = self.read(name)
        if len(messages) != 1:
            raise ImagesError(f"{self.file(name)} is damaged: it has {len(messages)} entries, not 1; use another copy of the dump")
        return messages[0]

    def entries(self, name: str) -> list[Entry]:
        """Return the entries of image NAME with their raw bytes. Raises ImagesError as `read` does."""
        return list(self.iterate(name))

    def iterate(self, name: str) -> Generator[Entry, None, None]:
        """Yield the entries of image NAME one by one, as `entries` has them; for images that may be long."""
        kind, path = kind_of(name), self.file(name)
        with faults("read", path), open(path, "rb") as file:
            yield from _decode(Source(file, path, os.fstat(file.fileno()).st_size), kind)

    @contextmanager
    def source(self, name: str) -> Iterator[Source]:
        """Open image NAME, past its magic. Raises ImagesError."""
        kind, path = kind_of(name), self.file(name)
        with faults("read", path), ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(open(path, "rb"))
            size = os.fstat(file.fileno()).st_size
            if size <= _SMALL:  # a walk through a chain of a thousand dumps is not to hold a thousand files open
                file = io.BytesIO(file.read())
                stack.close()
            source = Source(file, path, size)
            source.magic(kind)
            yield source

    def has(self, name: str) -> bool:
        """Return whether there is an image NAME."""
        return os.path.isfile(self.file(name))

    def names(self) -> list[str]:
        """Return the sorted names of all images of messages here; pages-N are not among them."""
        with faults("list", self.path):
            files = os.listdir(self.path)
        return sorted(name for name in map(_image_name, files) if name)


def create(path: str) -> IO[bytes]:
    """Open PATH for writing, empty and for its owner only, never through a symbolic link. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    os.fchmod(fd, FILE_MODE)  # a file that was there before keeps its mode otherwise
    return os.fdopen(fd, "wb")


def _image_name(file: str) -> str:
    """Return the image's name of FILE in a dump, empty when it is none."""
    name = file[: -len(SUFFIX)] if file.endswith(SUFFIX) else file
    kind = find_kind(name)
    return name if kind is not None and name + kind.suffix == file else ""


class _MessageNames:
    """Tells which message comes next in an image of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._index = 0
        self._ipc_messages = 0

    def next(self) -> str:
        return "ipc_msg" if self._ipc_messages else self._kind.message_at(self._index)

    def passed(self, message: Any) -> None:
        self._index += 1
        self._ipc_messages = max(self._ipc_messages - 1, 0) or ipc_messages(message)


def _encode(message: Any, payload: bytes, expected: _MessageNames, path: str) -> bytes:
    name = expected.next()
    if message.DESCRIPTOR.name != name:
        raise ImagesError(f"{path} takes a {name} here, not a {message.DESCRIPTOR.name}; this is a fault of the caller")
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise ImagesError(f"{path}: a {name} lacks {missing}; this is a fault of the caller")
    expected.passed(message)
    encoded: bytes = message.SerializeToString()
    head = _LENGTH.pack(len(encoded))
    if name not in PAYLOADS and not payload:
        return head + encoded
    rule = PAYLOADS.get(name, NO_PAYLOAD)
    length = rule.length(message)
    if length is not None and length != len(payload):
        raise ImagesError(f"{path}: a {name} announces {length} bytes and has {len(payload)}; this is a fault of the caller")
    return b"".join((head, encoded, payload, bytes(rule.padding(len(payload)))))


def _decode(source: Source, kind: Kind) -> Iterator[Entry]:
    source.magic(kind)
    expected = _MessageNames(kind)
    while source.left():
        name, offset = expected.next(), source.offset
        message = _parse(name, source.entry(f"a {name}"), source.path, offset)
        payload = _payload(source, name, message) if name in PAYLOADS else b""
        expected.passed(message)
        yield Entry(message, payload)


def _payload(source: Source, name: str, message: Any) -> bytes:
    rule = PAYLOADS[name]
    length = rule.length(message)
    payload = source.take(source.left() if length is None else length, f"the data of a {name}")
    source.take(rule.padding(len(payload)), f"the padding of a {name}")
    return payload


def _parse(name: str, encoded: bytes, path: str, offset: int) -> Any:
    from . import schema

    message = schema.message(name)()
    fill(message, encoded, path, offset)
    return message


def fill(message: Any, encoded: bytes, path: str, offset: int) -> None:
    """Merge ENCODED, found at OFFSET of the image at PATH, into MESSAGE. Raises ImagesError."""
    try:
        message.MergeFromString(encoded)
    except _undecodable() as error:
        name = message.DESCRIPTOR.name
        text = f"{path} is damaged at offset {offset}: its {name} cannot be decoded; use another copy of the dump"
        raise ImagesError(text, path, offset) from error
    if not message.IsInitialized():
        name, missing = message.DESCRIPTOR.name, ", ".join(message.FindInitializationErrors())
        raise ImagesError(f"{path} is damaged at offset {offset}: its {name} lacks {missing}; use another copy of the dump", path, offset)


def _undecodable() -> tuple[type[Exception], ...]:
    from google.protobuf.message import DecodeError

    return DecodeError, UnicodeDecodeError


class Source:
    """A file read forwards that knows how much is left, so that no length in it is believed."""

    def __init__(self, file: IO[bytes], path: str, size: int) -> None:
        self._file = file
        self.path = path
        self.offset = 0
        self._size = size

    def left(self) -> int:
        """Return how many bytes are left."""
        return self._size - self.offset

    def entry(self, what: str) -> bytes:
        """Return the next message, which is WHAT, encoded. Raises ImagesError."""
        return self.take(_LENGTH.unpack(self.take(_LENGTH.size, _AN_ENTRY))[0], what)

    def peek(self, count: int) -> bytes:
        """Return the next COUNT bytes, or those that are left, without passing over them."""
        found = self._file.read(count)
        self._file.seek(self.offset)
        return found

    def skip(self, count: int) -> None:
        """Pass over COUNT bytes that were looked at."""
        self.offset += count
        self._file.seek(self.offset)

    def take(self, count: int, what: str) -> bytes:
        """Return the next COUNT bytes, those of WHAT. Raises ImagesError when there are less."""
        if count > self._size - self.offset:
            raise ImagesError(
                f"{self.path} is truncated at offset {self.offset}: {what} takes {count} bytes and {self.left()} are left; "
                "use another copy of the dump",
                self.path,
                self.offset,
            )
        self.offset += count
        return self._file.read(count)

    def magic(self, kind: Kind) -> None:
        """Pass over the magic of KIND; an image of format v1.0 has not the common one."""
        head, bare = kind.head, _LENGTH.pack(kind.magic)
        found = self.take(min(len(head), max(self.left(), len(bare))), "the magic number")
        if found != head and found[: len(bare)] == bare:
            self._file.seek(len(bare))
            self.offset = len(bare)
        elif found != head:
            text = f"{self.path} does not begin as a {kind.name} image (offset 0: {found.hex()}); use another copy of the dump"
            raise ImagesError(text, self.path, 0)
