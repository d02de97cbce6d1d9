# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches of inotify and fanotify as fdinfo lists them (proc_pid_fdinfo(5)), and files found by their handles (open_by_handle_at(2))."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from .syscall import syscall

_HANDLE = struct.Struct("=Ii")
"""struct file_handle: bytes, type; the handle itself follows."""


@dataclass(frozen=True)
class Handle:
    """A file of a filesystem, whatever its path."""

    device: int
    """The kernel's own encoding: major << 20 | minor."""
    inode: int
    type: int
    content: bytes


@dataclass(frozen=True)
class Mark:
    """One line of fdinfo: "inotify wd:1 ino:…", "fanotify mnt_id:…"."""

    values: dict[str, int]
    handle: Handle | None
    """None for a mark on a mount or a filesystem, and where the filesystem gives no handles."""


def parse(line: str) -> Mark:
    """Read "inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e…"."""
    words = dict(word.split(":", 1) for word in line.split()[1:])
    content = bytes.fromhex(words.pop("f_handle", ""))
    values = {key: int(value, 16) for key, value in words.items()}
    size = values.get("fhandle-bytes", 0)
    handle = Handle(values["sdev"], values["ino"], values["fhandle-type"], content[:size]) if size else None
    return Mark(values, handle)


def open_handle(handle: Handle) -> int:
    """Return an O_PATH descriptor of the file of HANDLE. OSError: ESTALE when it is gone; needs CAP_DAC_READ_SEARCH."""
    failure = OSError(f"no mount of device {handle.device >> 20}:{handle.device & 0xFFFFF} can be opened")
    for _number, point in _mounts(handle.device):
        try:
            mount = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                request = _HANDLE.pack(len(handle.content), handle.type) + handle.content
                return syscall("open_by_handle_at", mount, request, os.O_PATH | os.O_CLOEXEC)
            finally:
                os.close(mount)
        except OSError as error:
            failure = error
    raise failure


def path_of(handle: Handle) -> str:
    """Return a path that leads to the file of HANDLE, empty when it has none that the kernel knows."""
    with suppress(OSError):
        fd = open_handle(handle)
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
            return path if os.path.samestat(os.lstat(path), os.fstat(fd)) else ""
        finally:
            os.close(fd)
    return ""


def mount_point(number: int) -> tuple[str, int]:
    """Return where the mount of that NUMBER is, and its device. KeyError when it is not in our mount namespace."""
    for found, device, point in _mountinfo():
        if found == number:
            return point, device
    raise KeyError(number)


def _mounts(device: int) -> Iterator[tuple[int, str]]:
    return ((number, point) for number, found, point in _mountinfo() if found == device)


def _mountinfo() -> Iterator[tuple[int, int, str]]:
    """Yield number, device and mount point of each mount (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            words = line.split()
            major, minor = map(int, words[2].split(":"))
            point = words[4].encode("latin-1", "surrogateescape").decode("unicode_escape") if "\\" in words[4] else words[4]
            yield int(words[0]), major << 20 | minor, point
