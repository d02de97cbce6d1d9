# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""PostgreSQL 15: many processes, memory that they share, a transaction open across the dump, pgbench running against it.

psql and pgbench, on unix sockets, are dumped with the server: so each dump of the chain has them in the midst of their work.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _engine.kernel import sysvipc
from service import Service, go_through_chain
from victim import PATIENCE, Lab, until

BIN = Path("/usr/lib/postgresql/15/bin")
SCRIPT = """
PATH={bin}:$PATH
cd {folder}
postgres -D data -k {folder} -c listen_addresses= -c fsync=off -c max_connections=20 >>log 2>&1 &
until pg_isready -q -h {folder}; do sleep 0.05; done
createdb -h {folder} bench
pgbench -q -i -s 1 -h {folder} bench 2>>log
psql -q -h {folder} bench -c "CREATE TABLE mark (number integer)"
psql -q -At -h {folder} bench <>ask >>answer 2>&1 &
pgbench -n -c 4 -j 2 -T 100000 -h {folder} bench >>log 2>&1 &
wait
"""
TABLES = "pgbench_accounts", "pgbench_branches", "pgbench_tellers"
BALANCED = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
   AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
   AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""
CHECKSUM = "SELECT md5(string_agg(aid || ':' || bid || ':' || filler, ',' ORDER BY aid)) FROM pgbench_accounts"


class Postgresql(Service):
    programs = (str(BIN / "postgres"), str(BIN / "pgbench"))

    def start(self) -> None:
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"}
        account = pwd.getpwnam("postgres")
        os.chown(self.folder, account.pw_uid, account.pw_gid)
        self.data = self.folder / "data"
        command = [str(BIN / "initdb"), "-D", str(self.data), "-A", "trust", "-N", "--no-instructions"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **self.user)  # type: ignore[call-overload]
        os.mkfifo(self.folder / "ask")
        os.chown(self.folder / "ask", account.pw_uid, account.pw_gid)
        self.pid = self.lab.spawn(["sh", "-c", SCRIPT.format(bin=BIN, folder=self.folder)], **self.user).pid
        until(lambda: self._history() > 100, "pgbench does not run")
        self.checksum = self.ask(CHECKSUM)
        self.segments = self._segments()

    def ask(self, question: str) -> str:
        """Return what psql, outside of the tree, is answered."""
        command = [str(BIN / "psql"), "-At", "-h", str(self.folder), "bench", "-c", question]
        done = subprocess.run(  # type: ignore[call-overload]
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False, **self.user
        )
        return str(done.stdout).strip()

    def _history(self) -> int:
        return int(self.ask("SELECT count(*) FROM pgbench_history") or 0)

    def tell(self, statement: str) -> None:
        """Have the psql of the tree carry out STATEMENT, and return when it is done."""
        before = self._answers()
        with open(self.folder / "ask", "w", encoding="utf-8") as ask:
            ask.write(f"{statement};\n\\echo done\n")
        until(lambda: self._answers() > before, f"psql does not carry out {statement}")

    def _answers(self) -> int:
        return (self.folder / "answer").read_text().count("done\n")

    @contextmanager
    def load(self) -> Iterator[None]:
        yield

    def mark(self, number: int) -> None:
        """Leave a transaction open, with one row in it."""
        if number > 1:
            self.tell("COMMIT")
        self.tell("BEGIN")
        self.tell(f"INSERT INTO mark VALUES ({number})")

    def check(self, number: int) -> None:
        marks = "SELECT string_agg(number::text, ',' ORDER BY number) FROM mark"
        assert self.ask(marks) == ",".join(map(str, range(1, number)))
        self.tell("COMMIT")
        assert self.ask(marks) == ",".join(map(str, range(1, number + 1)))
        before = self._history()
        until(lambda: self._history() > before + 100, "pgbench has stopped")
        assert self.ask(BALANCED) == "t"
        assert self.ask(CHECKSUM) == self.checksum
        for table in TABLES:
            assert int(self.ask(f"SELECT count(*) FROM {table}")) > 0
        self.ask("CHECKPOINT")
        assert "PANIC" not in (self.folder / "log").read_text()

    def files(self) -> tuple[Path, ...]:
        return (self.data, self.folder / "answer", self.folder / "log", *self.segments)

    def _segments(self) -> tuple[Path, ...]:
        """Return the files of shared memory that the postmaster maps."""
        postmaster = (self.data / "postmaster.pid").read_text().split()[0]
        return tuple({Path(word) for word in Path(f"/proc/{postmaster}/maps").read_text().split() if word.startswith("/dev/shm/")})


@pytest.fixture
def no_segments() -> Iterator[None]:
    """Remove the System V shared memory that servers leave behind which are killed."""
    before = set(sysvipc.segments())
    yield
    for number in set(sysvipc.segments()) - before:
        sysvipc.remove(number)


@pytest.mark.usefixtures("no_segments")
def test_postgresql(lab: Lab) -> None:
    go_through_chain(Postgresql(lab))
