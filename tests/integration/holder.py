# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that holds descriptors, and what has become of them in this process after a dump and a restore."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _engine.images.image import ImagesDir
from _engine.options import DumpOptions, RestoreOptions
from _engine.resources.files.dump import FilesDump
from _engine.resources.files.restore import FilesRestore

PROGRAM = Path(__file__).parent.parent / "programs" / "descriptors.py"


@dataclass(frozen=True)
class Holder:
    """A running process and its descriptors by name."""

    process: subprocess.Popen[str]
    fds: dict[str, int]

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.process.kill()
        self.process.wait()


@contextmanager
def holding(kind: str, directory: Path) -> Iterator[Holder]:
    """Run a process that holds descriptors of KIND, made in DIRECTORY."""
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-I", str(PROGRAM), kind, str(directory)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        process.stdout.read()  # until it has nothing of ours any more
        yield Holder(process, json.loads(line))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def dump(holder: Holder, images: Path, **options: object) -> tuple[ImagesDir, FilesDump]:
    """Dump the descriptors of HOLDER, which goes on running."""
    images.mkdir(exist_ok=True)
    directory = ImagesDir(str(images))
    with FilesDump(DumpOptions(tree=holder.pid, images_dir=str(images), **options)) as files:  # type: ignore[arg-type]
        assert files.preflight([holder.pid]) == []
        files.collect([holder.pid])
        files.collect_late()
        files.write(directory)
    return directory, files


class Restored:
    """The descriptors of a dump, opened in this process."""

    def __init__(self, files: FilesRestore, fds: dict[str, int]) -> None:
        self.files = files
        self._fds = fds
        self._descriptors = {descriptor.fd: descriptor for descriptor in files.descriptors(1)}

    def __getitem__(self, name: str) -> int:
        return self._descriptors[self._fds[name]].local

    def number(self, name: str) -> int:
        return self._fds[name]

    def file_id(self, name: str) -> int:
        return self._descriptors[self._fds[name]].file_id

    def cloexec(self, name: str) -> bool:
        return self._descriptors[self._fds[name]].cloexec


@contextmanager
def carried(kind: str, directory: Path, **options: object) -> Iterator[Restored]:
    """Dump the descriptors of a process that holds KIND, end it, and restore them here."""
    with holding(kind, directory / "state") as holder:
        images, _result = dump(holder, directory / "images", **options)
        holder.end()
        with restored(images, holder.fds) as found:
            yield found


@contextmanager
def restored(images: ImagesDir, fds: dict[str, int]) -> Iterator[Restored]:
    """Restore the descriptors of a dump here."""
    with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
        assert files.check() == []
        files.open()
        yield Restored(files, fds)


class OwnStub:
    """Stands for a restored task: makes the system calls in this process, having put the descriptors in place by dup2."""

    def __init__(self, files: FilesRestore) -> None:
        for descriptor in files.descriptors(1):
            if descriptor.fd > 2:
                os.dup2(descriptor.local, descriptor.fd)

    def call(self, name: str, *args: int | bytes) -> int:
        from _engine.kernel.syscall import syscall

        return syscall(name, *args)
