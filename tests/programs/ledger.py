# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the same count in memory, a log, a database, a mapped file, one with two names and one with holes; told apart when they differ.

Arguments: a directory with the named pipes `ask` and `answer`. Questions: "add N", "check", "vanish".
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
import sys
from pathlib import Path

HOLE = 1 << 20
LINE = b"entry %08d\n"


class Ledger:
    """The count, and where it stands besides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        (folder / "deep" / "er").mkdir(parents=True)
        self.log = os.open(folder / "deep" / "er" / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.base = sqlite3.connect(folder / "base.sqlite", isolation_level=None)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("CREATE TABLE entry (number INTEGER, text TEXT)")
        (folder / "mapped").write_bytes(bytes(8192))
        mapped = os.open(folder / "mapped", os.O_RDWR)
        self.mapped = mmap.mmap(mapped, 8192)
        os.close(mapped)
        (folder / "one").write_bytes(bytes(8))
        os.link(folder / "one", folder / "two")
        self.linked = os.open(folder / "one", os.O_RDWR)
        self.sparse = os.open(folder / "sparse", os.O_RDWR | os.O_CREAT, 0o640)
        os.ftruncate(self.sparse, 8 * HOLE)

    def add(self, number: int) -> str:
        """Add NUMBER entries."""
        for _entry in range(number):
            self.count += 1
            os.write(self.log, LINE % self.count)
            self.base.execute("INSERT INTO entry VALUES (?, ?)", (self.count, "x" * 200))
        count = struct.pack("Q", self.count)
        self.mapped[4096:4104] = count
        os.pwrite(self.linked, count, 0)
        os.pwrite(self.sparse, count, 4 * HOLE)
        return "ok"

    def check(self) -> str:
        """Return "ok", or what is not as it should be."""
        log = (self.folder / "deep" / "er" / "log").read_bytes()
        other = sqlite3.connect(self.folder / "base.sqlite")
        asked = [base.execute("SELECT count(*), max(number) FROM entry").fetchone() for base in (self.base, other)]
        sound = [base.execute("PRAGMA integrity_check").fetchone()[0] for base in (self.base, other)]
        other.close()
        counts = {
            "log": log.count(b"\n") if log == b"".join(LINE % (one + 1) for one in range(self.count)) else -1,
            "base": asked[0][0],
            "opened anew": asked[1][1] or 0,
            "mapped": struct.unpack_from("Q", self.mapped, 4096)[0],
            "mapped, read": struct.unpack_from("Q", (self.folder / "mapped").read_bytes(), 4096)[0],
            "two": struct.unpack("Q", (self.folder / "two").read_bytes())[0],
            "sparse": struct.unpack("Q", os.pread(self.sparse, 8, 4 * HOLE))[0],
        }
        wrong = [f"{name} {count}" for name, count in counts.items() if count != self.count]
        return ", ".join(wrong + [one for one in sound if one != "ok"]) or f"ok {self.count}"

    def answer(self, question: str) -> str:
        """Return the answer to QUESTION."""
        word, *more = question.split()
        return self.add(int(more[0])) if word == "add" else self.check()


def main() -> None:
    """Answer until killed."""
    folder = Path(sys.argv[1])
    ledger = Ledger(folder)
    asks, answers = (os.open(folder / name, os.O_RDWR) for name in ("ask", "answer"))
    os.write(answers, b"ready\n")
    while True:
        question = os.read(asks, 100).decode().strip()
        os.write(answers, ledger.answer(question).encode() + b"\n")


if __name__ == "__main__":
    main()
