# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the kept files of a dump against its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import ChainError
from .fault import fault
from .kept import DIRECTORY, KeptFile, kept_names, kept_path
from .manifest import Manifest
from .verification import checksummer_for, size_faults


def kept_faults(images_dir: str, manifest: Manifest | None) -> Iterator[ChainError]:
    """Yield what is wrong with the kept files of the dump in IMAGES_DIR. Reads them whole."""
    files = manifest.kept.files if manifest else ()
    if manifest is not None:
        for file in files:
            yield from _faults(images_dir, manifest, file)
    known = {os.path.join(DIRECTORY, file.name) for file in files}
    for name in kept_names(images_dir):
        if name not in known:
            path = os.path.join(images_dir, name)
            yield ChainError(f"{path} was not there when the dump was made; take it away", path)


def _faults(images_dir: str, manifest: Manifest, file: KeptFile) -> Iterator[ChainError]:
    path = kept_path(images_dir, file)
    try:
        checksummer = checksummer_for(manifest, path, file.algorithm)
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as content:
            size = os.fstat(content.fileno()).st_size
            yield from size_faults(path, size, file.size)
            if size == file.size and checksummer.whole(content.fileno(), size) != file.checksum:
                text = f"{path}, which is {file.path} as it was at the dump, is damaged: its checksum does not match; use another copy"
                yield ChainError(text, path)
    except OSError as error:
        yield ChainError(str(fault("read", path, error)), path)
    except ChainError as error:
        yield error
