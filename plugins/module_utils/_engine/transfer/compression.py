# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compression of what a move sends, by zstd: of Python 3.14, or of the library zstandard, an option as xxhash is.

Whoever decompresses says first how much may come of it, and gets no byte more: what a frame says of itself is looked at before
any memory is taken for it. The level is the quickest but one; a busy link is what it is for, not a small archive.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Union

ZSTD = "zstd"
NONE, AUTO = "none", "auto"
_LEVEL = 1
_PORTION = 16 << 20
"""Bytes by which one of the two ways is tried: more than the buffers of a connection take without sending anything."""
_SETTLED = 512 << 20
"""Bytes that go the better way before the other one is tried again."""

Data = Union[bytes, bytearray, memoryview]


class _Codec(NamedTuple):
    compress: Callable[[Data], bytes]
    size: Callable[[Data], int]
    """What a frame says to hold, -1 when it does not say."""
    decompress: Callable[[Data, int], bytes]
    """With the size that it says to hold."""
    error: type[Exception]


def _own() -> _Codec:
    """Return that of Python 3.14. Raises ImportError."""
    from compression import zstd

    def size(data: Data) -> int:
        found = zstd.get_frame_info(data).decompressed_size
        return -1 if found is None else int(found)

    def decompress(data: Data, expected: int) -> bytes:
        return bytes(zstd.ZstdDecompressor().decompress(data, max_length=expected))

    return _Codec(lambda data: bytes(zstd.compress(data, level=_LEVEL)), size, decompress, zstd.ZstdError)


def _library() -> _Codec:
    """Return that of zstandard. Raises ImportError."""
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=_LEVEL), zstandard.ZstdDecompressor()

    def decompress(data: Data, expected: int) -> bytes:
        return bytes(decompressor.decompress(data, max_output_size=expected))

    return _Codec(lambda data: bytes(compressor.compress(data)), zstandard.frame_content_size, decompress, zstandard.ZstdError)


def _find() -> _Codec | None:
    for codec in (_own, _library):
        with suppress(ImportError):
            return codec()
    return None


_codec = _find()


def available() -> bool:
    """Tell whether this Python can compress."""
    return _codec is not None


def compress(data: Data) -> bytes:
    """Return DATA, at least one byte, compressed. Raises ValueError where that is not available."""
    return _available().compress(data)


def decompress(data: Data, most: int) -> bytes:
    """Return what DATA holds. Raises ValueError for what is damaged, does not say how much it holds, or holds more than MOST bytes."""
    codec = _available()
    try:
        size = codec.size(data)
        if not 0 < size <= most:
            raise ValueError(f"it says to hold {size} bytes")
        found = codec.decompress(data, size)
    except codec.error as error:
        raise ValueError(str(error)) from error
    if len(found) != size:
        raise ValueError("it holds less than it says")
    return found


def _available() -> _Codec:
    if _codec is None:
        raise ValueError("this Python has no zstd")
    return _codec


class Choice:
    """Which way is the quicker one: as it is, or compressed. Both are tried, and now and then again, for links and memory change."""

    def __init__(self) -> None:
        self.compressing = False
        self._rates: dict[bool, float] = {}
        self._trying = True
        self._bytes = 0
        self._seconds = 0.0

    def took(self, size: int, seconds: float) -> None:
        """Take note that SIZE bytes, before they were compressed, took SECONDS to be sent the present way."""
        self._bytes += size
        self._seconds += seconds
        if self._bytes < (_PORTION if self._trying else _SETTLED):
            return
        self._rates[self.compressing] = self._bytes / max(self._seconds, 1e-9)
        self._bytes, self._seconds = 0, 0.0
        if len(self._rates) < 2 or not self._trying:
            self.compressing, self._trying = not self.compressing, True
        else:
            self.compressing, self._trying = self._rates[True] > self._rates[False], False
