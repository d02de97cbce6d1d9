# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What an archive goes through on its way to a file and back: compression by zstd (RFC 8878), encryption by age (age-encryption.org/v1).

Both are optional libraries, and both formats have programs of their own: `age --decrypt --identity KEYS FILE | zstd --decompress`
gives the tar. Keys are in files alone, never in a command line, an error or a log.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

with suppress(ImportError):  # optional: who asks for them without having them is told
    import pyrage
with suppress(ImportError):
    import zstandard

from ..errors import ImagesError, UsageError
from ..images.fault import faults

AGE_MAGIC, ZSTD_MAGIC = b"age-encryption.org/v1\n", b"\x28\xb5\x2f\xfd"
_LEVEL = 3
"""zstd's own default."""
_AT_ONCE = 1 << 20


def has_zstd() -> bool:
    """Return whether this Python can compress."""
    return "zstandard" in globals()


def has_age() -> bool:
    """Return whether this Python can encrypt."""
    return "pyrage" in globals()


def read_recipients(path: str) -> list[Any]:
    """Return the public keys in the file at PATH, one a line, as age has them. Raises UsageError, ImagesError."""
    _require(has_age(), "pyrage", "encrypt an archive")
    return _keys(path, "recipients_file", pyrage.x25519.Recipient.from_str)


def read_identities(path: str) -> list[Any]:
    """Return the private keys in the file at PATH, as age-keygen writes it; its owner only may read it. Raises UsageError, ImagesError."""
    _require(has_age(), "pyrage", "decrypt an archive")
    with faults("read", path):
        found = os.stat(path)
    if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
        raise UsageError(f"identity_file {path} can be read by others than its owner; let its mode be 0600")
    return _keys(path, "identity_file", pyrage.x25519.Identity.from_str)


def _keys(path: str, option: str, key: Callable[[str], Any]) -> list[Any]:
    with faults("read", path), open(path, "rb") as file:
        lines = [line.strip() for line in file.read().decode("ascii", "replace").splitlines()]
    found = []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            try:
                found.append(key(line))
            except (pyrage.RecipientError, pyrage.IdentityError) as error:
                raise UsageError(f"{option} {path}: line {number} is no key of age (X25519); see age-keygen(1)") from error
    if not found:
        raise UsageError(f"{option} {path} holds no key; see age-keygen(1)")
    return found


@contextmanager
def sealing(file: IO[bytes], compress: bool, recipients: list[Any]) -> Iterator[IO[bytes]]:
    """Give what writes into FILE, compressed if told to COMPRESS, encrypted if there are RECIPIENTS. Raises UsageError, OSError."""
    with ExitStack() as stack:
        out = file
        if recipients:
            out = stack.enter_context(_encrypting(file, recipients))
        if compress:
            _require(has_zstd(), "zstandard", "compress")
            compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
            out = stack.enter_context(compressor.stream_writer(out, closefd=False))
        yield out


@contextmanager
def unsealing(file: io.BufferedReader, identities: list[Any]) -> Iterator[Callable[[int], bytes]]:
    """Give what reads the tar in FILE, whatever it went through: as many bytes as asked for, less only at the end.

    Raises UsageError where a key or a library is missing, ValueError for what is damaged.
    """
    with ExitStack() as stack:
        source: Any = file
        if file.peek(len(AGE_MAGIC)).startswith(AGE_MAGIC):
            if not identities:
                raise UsageError(f"{file.name} is encrypted; give the file with its key as identity_file")
            source = stack.enter_context(_decrypting(file, identities))
        buffered: Any = source if source is file else io.BufferedReader(source, _AT_ONCE)
        if buffered.peek(len(ZSTD_MAGIC)).startswith(ZSTD_MAGIC):
            _require(has_zstd(), "zstandard", "decompress")
            buffered = zstandard.ZstdDecompressor().stream_reader(buffered, closefd=False, read_across_frames=False)
        yield _reading(buffered)


def _reading(stream: Any) -> Callable[[int], bytes]:
    """Return what reads from STREAM, and turns into ValueError what is wrong with it."""

    def read(size: int) -> bytes:
        parts, left = [], size
        while left:
            try:
                part = stream.read(min(left, _AT_ONCE))
            except _damages() as error:
                raise ValueError(str(error)) from error
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    return read


def _damages() -> tuple[type[Exception], ...]:
    return (zstandard.ZstdError,) if has_zstd() else ()


@contextmanager
def _encrypting(file: IO[bytes], recipients: list[Any]) -> Iterator[IO[bytes]]:
    with _beside(lambda pipe: pyrage.encrypt_io(pipe, file, recipients), "wb") as pipe:
        yield pipe


@contextmanager
def _decrypting(file: IO[bytes], identities: list[Any]) -> Iterator[IO[bytes]]:
    with _beside(lambda pipe: pyrage.decrypt_io(file, pipe, identities), "rb") as pipe:
        yield pipe


@contextmanager
def _beside(work: Callable[[IO[bytes]], None], mode: str) -> Iterator[IO[bytes]]:
    """Let WORK go on in a thread, with one end of a pipe, and give the other, opened with MODE. Raises what the work does."""
    read_end, write_end = os.pipe()
    ours, theirs = (write_end, read_end) if mode == "wb" else (read_end, write_end)
    failed: list[Exception] = []

    def run() -> None:
        try:
            with open(theirs, "rb" if mode == "wb" else "wb") as end:
                work(end)
        except Exception as error:  # it is raised where this thread is waited for
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        with suppress(BrokenPipeError), open(ours, mode, buffering=_AT_ONCE if mode == "wb" else 0) as pipe:
            yield pipe
    finally:
        thread.join()
        if failed and not isinstance(failed[0], BrokenPipeError):  # that is what it meets when we need no more
            raise ValueError(f"it cannot be decrypted: {failed[0]}") if mode == "rb" else failed[0]


def _require(there: bool, library: str, purpose: str) -> None:
    if not there:
        raise ImagesError(f"this Python lacks the library {library}, needed to {purpose}; install it, such as by pip install {library}")
