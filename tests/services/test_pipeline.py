# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A pipeline of the shell with data in flight: what comes out in the end is what would have come out without a dump."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service import Service, go_through_chain
from victim import Lab, until

LINES = 400000
GATE = 100000
"""After this many lines the pipeline waits for a word: so that it is dumped in its midst, however fast the machine is."""
SCRIPT = """
cd "$1"
exec 7<>gate
while read -r line; do
    echo "$line"
    case $line in *0000) read -r go <&7 ;; esac
done <steps | while read -r step; do cat "part-$step"; done | tr a-z A-Z | sed 's/LINE/row/' | tee -a copy | gzip -1n | gzip -d >>out
echo done >>end
"""


class Pipeline(Service):
    programs = ("tr", "sed", "tee", "gzip")

    def start(self) -> None:
        work = self.work = self.folder / "work"
        work.mkdir()
        self.expected = hashlib.sha256()
        parts = LINES // GATE
        for part in range(parts):
            lines = [f"line {number} of part {part}\n".encode() for number in range(GATE)]
            (work / f"part-{part}0000").write_bytes(b"".join(lines))
            self.expected.update(b"".join(lines).upper().replace(b"LINE", b"row"))
        (work / "steps").write_text("".join(f"{part}0000\n" for part in range(parts)))
        os.mkfifo(work / "gate")
        for name in ("copy", "out", "end"):
            (work / name).touch()
        self.pid = self.lab.spawn(["sh", "-c", SCRIPT, "sh", str(work)]).pid
        self._await(1)

    def _await(self, number: int) -> None:
        """Return when data of part NUMBER has come out: more of it may be in the pipes."""
        size = sum((self.work / f"part-{part}0000").stat().st_size for part in range(number - 1))
        until(lambda: (self.work / "copy").stat().st_size > size, "the pipeline stands still")

    @contextmanager
    def load(self) -> Iterator[None]:
        yield

    def mark(self, number: int) -> None:
        if number > 1:
            self._go()
            self._await(number)

    def _go(self) -> None:
        with open(self.work / "gate", "w", encoding="utf-8") as gate:
            gate.write("go\n")

    def check(self, number: int) -> None:
        for _gate in range(number, LINES // GATE + 1):
            self._go()
        until(lambda: (self.work / "end").stat().st_size > 0, "the pipeline does not end")
        for name in ("copy", "out"):
            assert hashlib.sha256((self.work / name).read_bytes()).digest() == self.expected.digest(), name

    def files(self) -> tuple[Path, ...]:
        return tuple(self.work / name for name in ("copy", "out", "end"))


def test_pipeline(lab: Lab) -> None:
    go_through_chain(Pipeline(lab))
