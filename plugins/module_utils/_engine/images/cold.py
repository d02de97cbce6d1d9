# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages files of cold dumps: compressed by zstd (RFC 8878), under their names with ".zst" added, until the dump is needed again.

Where a pages file is there both ways, it is whole both ways, and the compressed one is not looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

with suppress(ImportError):  # an option, as xxhash is: who needs it is told
    import zstandard

from ..errors import ChainError, ImagesError
from .fault import faults

ZST = ".zst"
_LEVEL = 3
"""zstd's own default."""
AT_ONCE = 1 << 20


def is_cold(path: str) -> bool:
    """Return whether pages file PATH is there compressed only."""
    return not os.path.exists(path) and os.path.isfile(path + ZST)


def has_cold(images_dir: str) -> bool:
    """Return whether any pages file in IMAGES_DIR is there compressed only."""
    return any(is_cold(os.path.join(images_dir, name[: -len(ZST)])) for name in os.listdir(images_dir) if name.endswith(ZST))


def require_zstd() -> None:
    """Raise ImagesError unless this Python has zstd."""
    if "zstandard" not in globals():
        raise ImagesError("this Python lacks the library zstandard, needed for compressed dumps; install it (pip install zstandard)")


def compress_file(source: IO[bytes], target: IO[bytes]) -> None:
    """Write all of SOURCE to TARGET, compressed. Raises OSError."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    compressor.copy_stream(source, target, size=os.fstat(source.fileno()).st_size, read_size=AT_ONCE, write_size=AT_ONCE)


@contextmanager
def reading_cold(path: str) -> Iterator[tuple[int, Callable[[int], bytes]]]:
    """Give the size of the pages file PATH, which is compressed, and what reads it: as many bytes as asked for, less only at its end.

    Raises ImagesError, ChainError for what is damaged.
    """
    require_zstd()
    compressed = path + ZST
    with faults("read", compressed), open(compressed, "rb") as file:
        try:
            size = zstandard.frame_content_size(file.read(18))  # the longest header of a frame
            file.seek(0)
            stream = zstandard.ZstdDecompressor().stream_reader(file, closefd=False)

            def read(count: int) -> bytes:
                parts = []
                while count:
                    part = stream.read(count)
                    if not part:
                        break
                    parts.append(part)
                    count -= len(part)
                return b"".join(parts)

            yield size, read
        except zstandard.ZstdError as error:
            raise ChainError(f"{compressed} is damaged: {error}; use another copy of the dump", compressed) from error
