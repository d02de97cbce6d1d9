# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A victim that keeps something in mind: `keeper.py FOLDER`.

It fills memory at random and writes a digest of it to FOLDER/kept, and its PID to FOLDER/pid. At each line that comes through
the named pipe FOLDER/ask it changes a part of the memory ("change"), or writes the digest of the memory that it has now to
FOLDER/answer ("tell"). So after a restore the answer is what was kept when the dump was taken.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

SIZE = 8 << 20
CHANGED = 256 << 10


def put(path: Path, text: str) -> None:
    """Write TEXT to the file at PATH in one step."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def main() -> None:
    """Keep the memory until killed."""
    folder = Path(sys.argv[1])
    memory = bytearray(os.urandom(SIZE))
    os.mkfifo(folder / "ask", 0o600)
    descriptor = os.open(folder / "ask", os.O_RDWR)  # for writing too: so there is always a writer, and never an end
    with open(descriptor, encoding="ascii") as questions:
        put(folder / "kept", hashlib.sha256(memory).hexdigest())
        put(folder / "pid", str(os.getpid()))
        for question in questions:
            if question == "change\n":
                memory[:CHANGED] = os.urandom(CHANGED)
                put(folder / "kept", hashlib.sha256(memory).hexdigest())
            else:
                put(folder / "answer", hashlib.sha256(memory).hexdigest())


if __name__ == "__main__":
    main()
