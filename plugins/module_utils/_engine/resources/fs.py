# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Working directory, root directory and umask of a task. Images: fs-PID (fs_entry), the directories in files.img."""

from __future__ import annotations

import os
from typing import Any

from ..errors import TargetError
from ..images.schema import message
from .files.dump import FilesDump
from .files.kind import Stub
from .files.restore import FilesRestore


def dump_fs(pid: int, files: FilesDump) -> Any:
    """Return the fs_entry of PID, having added its directories to FILES.

    Raises TargetError when the task is gone, UnsupportedError when a directory cannot be found again.
    """
    cwd, root = _add(pid, "cwd", files), _add(pid, "root", files)
    return message("fs_entry")(cwd_id=cwd, root_id=root, umask=read_umask(pid))


def read_umask(pid: int) -> int:
    """Return the umask of PID (/proc/PID/status, Linux 4.7). TargetError when it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("Umask:"))
    except (OSError, StopIteration) as error:
        raise TargetError(f"process {pid} has ended; name one that runs") from error


def restore_fs(entry: Any, files: FilesRestore, stub: Stub) -> None:
    """Give a restored task its directories and umask; it still has the privilege of chroot(2). OSError when it may not."""
    stub.call("fchdir", files.local(entry.root_id))
    if not os.path.samestat(os.fstat(files.local(entry.root_id)), os.stat("/")):
        stub.call("chroot", b".\0")
    stub.call("fchdir", files.local(entry.cwd_id))
    if entry.HasField("umask"):
        stub.call("umask", entry.umask)


def _add(pid: int, name: str, files: FilesDump) -> int:
    link = f"/proc/{pid}/{name}"
    try:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
        path = os.readlink(link)
    except OSError as error:
        raise TargetError(f"{name} of process {pid} cannot be read ({error.strerror}); name a process that runs") from error
    try:
        return files.add_open(fd, path)
    finally:
        os.close(fd)
