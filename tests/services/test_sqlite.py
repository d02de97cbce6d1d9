# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A writer to an SQLite database in WAL mode, within a transaction most of the time: locks, and an index in a shared mapping."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from http_service import PROGRAMS
from service import Service, go_through_chain
from victim import PATIENCE, Lab, until


class Sqlite(Service):
    programs = ("sqlite3",)
    options = ("--file-locks",)

    def start(self) -> None:
        self.data = self.folder / "data"
        self.data.mkdir()
        self.database = self.data / "database"
        self.pid = self.lab.spawn([sys.executable, str(PROGRAMS / "sqlite_writer.py"), str(self.database)]).pid
        until(lambda: (self.data / "database-wal").exists() and self.moves() > 100, "nothing is written")

    def ask(self, question: str) -> str:
        """Return what the sqlite3 program answers."""
        command = ["sqlite3", "-cmd", ".timeout 60000", str(self.database), question]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
        return done.stdout.strip()

    def moves(self) -> int:
        return int(self.ask("SELECT count(*) FROM move") or 0)

    @contextmanager
    def load(self) -> Iterator[None]:
        yield

    def mark(self, number: int) -> None:
        before = self.moves()
        self.ask(f"INSERT INTO mark VALUES ({number})")
        until(lambda: self.moves() > before, "nothing is written")

    def check(self, number: int) -> None:
        before = self.moves()
        until(lambda: self.moves() > before + 100, "nothing is written")
        assert self.ask("SELECT group_concat(number) FROM mark") == ",".join(map(str, range(1, number + 1)))
        assert self.ask("SELECT sum(amount) FROM account") == "100000"
        assert self.ask("SELECT count(*) - 1 - max(id) FROM move") == "0"
        assert self.ask("PRAGMA integrity_check") == "ok"

    def files(self) -> tuple[Path, ...]:
        return (self.data,)


def test_sqlite(lab: Lab) -> None:
    go_through_chain(Sqlite(lab))
