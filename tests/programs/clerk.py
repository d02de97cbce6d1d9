# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes to files without a pause, and knows what they must hold: `clerk.py FOLDER DATA`, asked through the pipes in FOLDER.

A line a step goes to DATA/log, a byte into DATA/data by pwrite(2), and one into DATA/mapped by mmap(2). "check" looks at all of them,
"rest" stops the writing, and "write" goes on.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
from pathlib import Path

SIZE = 3 << 20
PRIME = 65537


def main(folder: Path, data: Path) -> None:
    """Write until killed."""
    log, plain, under = (os.open(data / name, os.O_RDWR | os.O_CREAT, 0o640) for name in ("log", "data", "mapped"))
    for fd in (plain, under):
        os.ftruncate(fd, SIZE)
    mapped = mmap.mmap(under, SIZE)
    expected = bytearray(SIZE)
    asks, answers = (os.open(folder / name, os.O_RDWR) for name in ("ask", "answer"))
    step, resting = 0, False
    (folder / "ready").touch()
    while True:
        if select.select([asks], [], [], 60 if resting else 0)[0]:
            question = os.read(asks, 4096).decode().strip()
            answer = "ok"
            if question == "check":
                answer = check(step, data, expected, (log, plain, under), mapped)
            resting = resting if question == "check" else question == "rest"
            os.write(answers, f"{answer}\n".encode())
        if not resting:
            os.write(log, b"%d\n" % step)
            at, byte = step * PRIME % SIZE, step % 255 + 1
            os.pwrite(plain, bytes([byte]), at)
            mapped[at] = expected[at] = byte
            step += 1


def check(step: int, data: Path, expected: bytearray, fds: tuple[int, ...], mapped: mmap.mmap) -> str:
    """Return ok, or what is wrong after STEP steps."""
    for name, fd in zip(("log", "data", "mapped"), fds):
        if not os.path.samestat(os.fstat(fd), os.stat(data / name)) or os.readlink(f"/proc/self/fd/{fd}") != str(data / name):
            return f"{name} is another file: {os.readlink(f'/proc/self/fd/{fd}')}"
    if (data / "log").read_bytes() != b"".join(b"%d\n" % number for number in range(step)):
        return "the log is wrong"
    if (data / "data").read_bytes() != expected or (data / "mapped").read_bytes() != expected or mapped[:] != expected:
        return "the data is wrong"
    return "ok"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
