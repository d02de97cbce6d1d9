# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump as if it were of another build of the kernel: its vDSO altered in the images."""

from __future__ import annotations

from pathlib import Path

from _engine.images.chain import open_chain
from _engine.kernel import procfs
from _engine.resources.memory.vdso_image import VdsoImage, read_image
from _engine.tracee.arch import x86_64 as arch


def vdso_of(pid: int) -> procfs.Area:
    """Return the mapping that PID takes for its vDSO."""
    start = arch.vdso_address(procfs.auxv(pid))
    return next(area for area in procfs.maps(pid) if area.start == start)


def image_of(pid: int) -> VdsoImage:
    """Return what PID takes for its vDSO."""
    area = vdso_of(pid)
    return read_image(procfs.read_memory(pid, area.start, area.end - area.start))


def real_vdso(pid: int) -> list[int]:
    """Return where this kernel's vDSO lies in PID."""
    return [area.start for area in procfs.maps(pid) if area.name == "[vdso]"]


class Altered:
    """The vDSO in a dump. What is done to it is in the images at once, which are then like CRIU's: without checksums."""

    def __init__(self, images: Path, pid: int, start: int) -> None:
        extents = open_chain(str(images), verify=False).extents(f"pagemap-{pid}")
        extent = next(one for one in extents if one.start <= start < one.start + one.pages * 4096)
        self._path, self._at = extent.path, extent.offset + start - extent.start
        (images / "stillframe.json").unlink(missing_ok=True)

    def content(self) -> bytes:
        """Return the two pages of it."""
        with open(self._path, "rb") as pages:
            pages.seek(self._at)
            return pages.read(8192)

    def replace(self, content: bytes) -> None:
        """Put CONTENT in its place."""
        assert len(content) == 8192
        with open(self._path, "r+b") as pages:
            pages.seek(self._at)
            pages.write(content)

    def of_another_build(self, build: bytes) -> bytes:
        """Give it the build-id BUILD; return what it had."""
        content = self.content()
        known = read_image(content).build_id
        self.replace(content.replace(known, build[: len(known)]))
        return known

    def swap(self, one: str, other: str) -> None:
        """Let two functions change places: what calls one by its name now comes to the code of the other."""
        content = bytearray(self.content())
        offsets = read_image(bytes(content)).offsets()
        first, second = (offsets[name].to_bytes(8, "little") for name in (one, other))
        for at in range(0, min(offsets.values()) & ~7, 8):  # the symbols come before the code
            word = bytes(content[at : at + 8])
            content[at : at + 8] = {first: second, second: first}.get(word, word)
        self.replace(bytes(content))
