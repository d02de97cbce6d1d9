# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A service in the sandbox of sandbox.sh, as user 65534: it has files open there, and tells whether all is as it should be."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys


def main(state: str) -> None:
    """Answer each line of STATE/ask by a line in STATE/answer: "ok", or what is wrong."""
    asks, answers = (os.open(f"{state}/{name}", os.O_RDWR) for name in ("ask", "answer"))
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    os.umask(0)
    service = Service()
    answer = "ready"
    while True:
        os.write(answers, f"{answer}\n".encode())
        question = os.read(asks, 100).decode().strip()
        answer = service.grow() if question == "grow" else service.check()


class Service:
    """What it holds."""

    def __init__(self) -> None:
        os.mkdir("/tmp/dir", 0o750)
        os.link(make("/tmp/dir/file", b"private", 0o604), "/tmp/link")
        os.symlink("dir/file", "/tmp/symlink")
        os.mkfifo("/tmp/fifo", 0o620)
        self.file = os.open("/tmp/dir/file", os.O_RDWR)
        os.lseek(self.file, 3, os.SEEK_SET)
        self.log = os.open("/tmp/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.gone = os.open(make("/tmp/gone", b"ghost", 0o600), os.O_RDONLY)
        os.unlink("/tmp/gone")
        self.fifo = os.open("/tmp/fifo", os.O_RDWR)
        os.write(self.fifo, b"in the fifo")
        self.null = os.open("/dev/null", os.O_RDWR)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind("/tmp/socket")
        self.socket.listen()
        os.chdir("/tmp/dir")
        self.lines = 0

    def grow(self) -> str:
        """Change something between two dumps."""
        self.lines += 1
        os.write(self.log, b"line\n")
        make(f"/tmp/dir/{self.lines}", b"", 0o600)
        return "ok"

    def check(self) -> str:
        """Return "ok", or what is not as it was."""
        wrong = [name for name, right in self.facts() if not right]
        return ", ".join(wrong) or "ok"

    def facts(self) -> list[tuple[str, bool]]:
        """Return what should be, each with whether it is."""
        status = os.lstat("file")
        with socket.socket(socket.AF_UNIX) as client:
            connected = client.connect_ex("/tmp/socket") == 0
            if connected:
                self.socket.accept()[0].close()
        return [
            ("offset", os.lseek(self.file, 0, os.SEEK_CUR) == 3),
            ("content", os.pread(self.file, 10, 0) == b"private"),
            ("same file", os.path.samestat(os.fstat(self.file), status)),
            ("mode", status.st_mode == stat.S_IFREG | 0o604 and status.st_uid == 65534 and status.st_nlink == 2),
            ("directory", os.stat(".").st_mode == stat.S_IFDIR | 0o750 and os.getcwd() == "/tmp/dir"),
            ("files", sorted(os.listdir("/tmp")) == ["dir", "fifo", "link", "log", "socket", "symlink"]),
            ("symlink", os.readlink("/tmp/symlink") == "dir/file"),
            ("grown", sorted(os.listdir(".")) == sorted(["file", *(str(line + 1) for line in range(self.lines))])),
            ("log", os.stat("/tmp/log").st_size == 5 * self.lines),
            ("tmp", os.stat("/tmp").st_mode == stat.S_IFDIR | 0o1777),
            ("unlinked", os.pread(self.gone, 10, 0) == b"ghost" and os.fstat(self.gone).st_nlink == 0),
            ("fifo", self.through_fifo() == b"in the fifo"),
            ("null", os.path.samestat(os.fstat(self.null), os.stat("/dev/null"))),
            ("devices", sorted(os.listdir("/dev")) == ["fd", "full", "null", "pts", "random", "shm", "tty", "urandom", "zero"]),
            ("device", os.stat("/dev/full").st_rdev == os.makedev(1, 7) and os.stat("/dev/full").st_mode == stat.S_IFCHR | 0o666),
            ("read-only /", refused("/etc/made") == errno.EROFS),
            ("read-only /usr", refused("/usr/made") == errno.EROFS),
            ("read-only /srv", refused("/srv/made") in (errno.EROFS, errno.EACCES)),
            ("inaccessible", refused("/media/made") in (errno.EROFS, errno.EACCES)),
            ("read-only /proc/sys", bool(os.statvfs("/proc/sys").f_flag & os.ST_RDONLY)),
            ("bound", open("/etc/hostname").read() == "bound\n"),
            ("proc", not os.path.exists("/proc/1")),
            ("socket", connected),
        ]

    def through_fifo(self) -> bytes:
        """Return what is in the FIFO, which stays there."""
        content = os.read(self.fifo, 100)
        os.write(self.fifo, content)
        return content


def make(path: str, content: bytes, mode: int) -> str:
    """Make a file and return its path."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    return path


def refused(path: str) -> int:
    """Return why a file cannot be made at PATH, 0 when it was."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        return error.errno or -1
    return 0


main(sys.argv[1])
