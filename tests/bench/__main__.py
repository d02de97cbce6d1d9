# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Timings of the engine, side by side with CRIU's: `python tests/bench [--rounds N] [--mib SIZE] [--folder DIR] [--json FILE]`.

All in one run, on warm memory, with images on tmpfs; each figure is the median of all rounds. CRIU is the one of
STILLFRAME_CRIU, else the one that tests/interop/get-criu fetched, else the machine's; without one its columns stay empty.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

sys.path.insert(0, str(Path(__file__).parent))
import subject  # noqa: E402
from command import Cost, run  # noqa: E402
from criu import find_criu  # noqa: E402
from subject import Subject  # noqa: E402
from table import Row, as_dicts, evaluate, render  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
STILLFRAME = [sys.executable, str(ROOT / "bin" / "stillframe")]
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
FIRST = ("--leave-running", "--track-mem")

ROWS = (
    Row("full dump: frozen, CRIU's", "full frozen", "criu frozen", ratio=1 / 20),
    Row("full dump: pause that the process saw, CRIU's", "full pause", "criu pause"),
    Row("full dump: wall, CRIU's", "full wall", "criu wall", ratio=1.3),
    Row("full dump: processor time, CRIU's", "full processor", "criu processor"),
    Row("second dump, 1 % changed: wall, the first one's", "second wall", "full wall", ratio=0.1),
    Row("second dump: frozen, the first one's", "second frozen", "full frozen"),
    Row("second dump: pause that the process saw, the first one's", "second pause", "full pause"),
    Row("dump by the compare tracker: wall, a full one's", "compare wall", "full wall"),
    Row("restore of the full dump: wall, CRIU's", "restore wall", "criu restore wall", ratio=1.3),
    Row("restore of the full dump: processor time, CRIU's", "restore processor", "criu restore processor"),
    Row("restore of the second dump: wall, CRIU's of the same", "restore chain wall", "criu restore chain wall", ratio=1.3),
    Row("of that: verification of all checksums", "verify"),
    Row("dedup: wall, CRIU's", "dedup wall", "criu dedup wall", ratio=1),
    Row("dedup: processor time, CRIU's", "dedup processor", "criu dedup processor"),
    Row("stillframe --help", "help wall", limit=150),
    Row("full dump: peak memory, CRIU's", "full peak", "criu peak", limit=64, unit="MiB"),
    Row("second dump: peak memory", "second peak", limit=64, unit="MiB"),
    Row("dump by the compare tracker: peak memory", "compare peak", limit=64, unit="MiB"),
    Row("restore: peak memory, CRIU's", "restore peak", "criu restore peak", limit=64, unit="MiB"),
    Row("restore of the second dump: peak memory", "restore chain peak", limit=64, unit="MiB"),
    Row("dedup: peak memory, CRIU's", "dedup peak", "criu dedup peak", limit=64, unit="MiB"),
)


class Bench:
    """The rounds, and what they took so far."""

    def __init__(self, folder: Path, mebibytes: int, criu: Optional[str]) -> None:
        self._folder = folder
        self._mebibytes = mebibytes
        self._criu = criu
        self._program = subject.build(folder)
        self.samples: dict[str, list[float]] = defaultdict(list)

    def warm_up(self, mebibytes: int) -> None:
        """Touch as much memory as what follows needs: the first touch of a virtual machine's memory is slow.

        What is free for some seconds may go back to the host (free page reporting), so this comes before every figure.
        """
        block = bytes(1 << 20)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for _block in range(mebibytes):
                file.write(block)

    def round(self) -> None:
        """Take every figure once."""
        chain = [self._images(f"chain/{number}") for number in (1, 2, 3)]
        theirs = self._images("criu")
        process = Subject(self._program, self._folder, self._mebibytes)
        try:
            sums = self._dumps(process, chain, theirs)
            process.end()
            self._restores(process, chain, theirs, sums)
        finally:
            process.end()
        self._dedups(chain)
        self._note("help", run([*STILLFRAME, "--help"], self._folder / "log"))
        for images in (chain[0].parent, theirs, self._folder / "copy"):
            shutil.rmtree(images, ignore_errors=True)

    def _dumps(self, process: Subject, chain: Sequence[Path], theirs: Path) -> tuple[int, int]:
        """Dump PROCESS in every way; return the sums over its memory at the first and the second dump of CHAIN."""
        first_sum = process.ask(subject.SUM)
        if self._criu:
            self._dump("criu", [self._criu], process, theirs, "--leave-running")
        self._dump("full", STILLFRAME, process, chain[0], *FIRST)
        process.ask(subject.DIRTY)
        second_sum = process.ask(subject.SUM)
        self._dump("second", STILLFRAME, process, chain[1], *FIRST, "--prev-images-dir", "../1/")
        process.ask(subject.DIRTY)
        self._dump("compare", STILLFRAME, process, chain[2], "--leave-running", "--tracker", "compare", "--prev-images-dir", "../2/")
        return first_sum, second_sum

    def _dump(self, name: str, program: Sequence[str], process: Subject, images: Path, *options: str) -> None:
        self.warm_up(self._mebibytes * 5 // 4)
        process.ask(subject.PAUSE)
        self._note(name, run([*program, "dump", "--tree", str(process.pid), "--images-dir", str(images), *options], self._folder / "log"))
        self.samples[f"{name} pause"].append(process.ask(subject.PAUSE) / 1e6)
        chain_figures = [sys.executable, str(ROOT / "tests" / "bench" / "chain_figures.py"), str(images)]
        told = subprocess.run(chain_figures, capture_output=True, check=True)
        figures = json.loads(told.stdout)
        self.samples[f"{name} frozen"].append(figures["frozen"])
        if name == "second":
            self.samples["verify"].append(figures["verify"])
            pages = self._mebibytes * 256
            if not pages // 100 <= figures["written"] <= pages // 50 + 1000:
                raise RuntimeError(f"the second dump wrote {figures['written']} pages, of {pages} that the process has")

    def _restores(self, process: Subject, chain: Sequence[Path], theirs: Path, sums: tuple[int, int]) -> None:
        if self._criu:
            self._restore("criu restore", [self._criu], process, theirs, sums[0])
            self._restore("criu restore chain", [self._criu], process, chain[1], sums[1])
        self._restore("restore", STILLFRAME, process, chain[0], sums[0])
        self._restore("restore chain", STILLFRAME, process, chain[1], sums[1])

    def _restore(self, name: str, program: Sequence[str], process: Subject, images: Path, expected: int) -> None:
        self.warm_up(self._mebibytes * 5 // 4)
        self._note(name, run([*program, "restore", "--images-dir", str(images), "--restore-detached"], self._folder / "log"))
        found = process.ask(subject.SUM)
        process.end()
        if found != expected:
            raise RuntimeError(f"{program[-1]} restored other memory from {images} than was dumped")

    def _dedups(self, chain: Sequence[Path]) -> None:
        copy = self._folder / "copy"
        shutil.rmtree(chain[2])
        if self._criu:
            shutil.copytree(chain[0].parent, copy, symlinks=True)
            self._note("criu dedup", run([self._criu, "dedup", "--images-dir", str(copy / "2")], self._folder / "log"))
        self._note("dedup", run([*STILLFRAME, "dedup", "--images-dir", str(chain[1])], self._folder / "log"))

    def _note(self, name: str, cost: Cost) -> None:
        self.samples[f"{name} wall"].append(cost.wall)
        self.samples[f"{name} processor"].append(cost.processor)
        self.samples[f"{name} peak"].append(cost.peak)

    def _images(self, name: str) -> Path:
        images = self._folder / name
        images.mkdir(parents=True)
        return images


def main() -> int:
    """Run the benchmark; the exit status tells only whether it could be run."""
    parser = argparse.ArgumentParser(prog="bench", description="Time the engine, side by side with CRIU.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=2048, help="memory of the process (default: 2048)")
    parser.add_argument("--folder", default="/dev/shm", help="where the images are put: a tmpfs (default: /dev/shm)")
    parser.add_argument("--json", default="", help="write all samples to this file")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("run it as root")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    criu = find_criu(ROOT)
    print(f"A process of {options.mib} MiB, images in {options.folder}, medians of {options.rounds} rounds, {os.cpu_count()} processors.")
    print(f"CRIU: {criu or 'none that works here; set STILLFRAME_CRIU, or fetch one by tests/interop/get-criu .cache/criu'}")
    with tempfile.TemporaryDirectory(prefix="stillframe-bench-", dir=options.folder) as folder:
        bench = Bench(Path(folder), options.mib, criu)
        bench.warm_up(4 * options.mib)
        for number in range(1, options.rounds + 1):
            print(f"round {number}, load {os.getloadavg()[0]:.1f}", flush=True)
            bench.round()
    results = [evaluate(row, bench.samples) for row in ROWS]
    print(render(results))
    if options.json:
        body = {"mib": options.mib, "rounds": options.rounds, "criu": bool(criu), "results": as_dicts(results), "samples": bench.samples}
        Path(options.json).write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
