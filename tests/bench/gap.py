# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The longest gap that a client sees while its server moves: `python tests/bench/gap.py [--rounds N] [--mib SIZE,SIZE] [--rate N]`.

A redis under a writing load moves from one host to another, by our engine and by the playbook that people write by hand
(by_hand.yml). The client's connections stay open; it numbers its commands and is told when one was lost. All in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).parent))
from criu import find_criu  # noqa: E402
from pair import ADDRESS, GIVE, ROOT, TAKE, Pair  # noqa: E402
from table import Row, as_dicts, evaluate, render  # noqa: E402

PORT = 6379
ENGINE = [sys.executable, str(ROOT / "bin" / "stillframe")]
PARTS = ("freeze", "scan", "copy", "send", "apply", "resume")
_CONNECTIONS = 4
_CALM = 1.0
"""Seconds of load before and after a move."""
_FREE_PID = 20000
"""Nothing on the second host has a number like that."""
_SCRIPT = "#!/bin/sh\ncase $CRTOOLS_SCRIPT_ACTION in\n    {stage}) exec {command} ;;\nesac\n"


class Service:
    """A redis of MEBIBYTES on the first host, and its client."""

    def __init__(self, pair: Pair, mebibytes: int, rate: float) -> None:
        self._pair = pair
        self._keys = mebibytes * 256
        self._rate = rate
        self.pid = 0

    def start(self) -> None:
        """Start and fill it."""
        self._pair.run(1, *TAKE.split())
        self._pair.run(1, "sh", "-c", f"echo {_FREE_PID} > /proc/sys/kernel/ns_last_pid")
        options = ["--save", "", "--appendonly", "no", "--bind", ADDRESS, "--protected-mode", "no", "--dir", "/tmp"]
        self._pair.run(1, "redis-server", *options, "--daemonize", "yes", "--pidfile", "/tmp/redis.pid")
        self.pid = int(self._pair.run(1, "sh", "-c", "until test -s /tmp/redis.pid; do sleep 0.1; done; cat /tmp/redis.pid"))
        subprocess.run([*self._client(), "fill"], check=True)

    def _client(self) -> list[str]:
        program = str(ROOT / "tests" / "bench" / "steady_client.py")
        return [*self._pair.outside, sys.executable, program, ADDRESS, str(PORT), str(self._keys)]

    @contextmanager
    def loaded(self, seen: dict[str, Any]) -> Iterator[None]:
        """Have it written to while the context lasts; SEEN gets what the client saw. Raises RuntimeError when that is not right."""
        words = [*self._client(), "load", str(self._rate), str(_CONNECTIONS)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin and client.stdout
            client.stdout.readline()
            try:
                yield
            finally:
                client.stdin.close()
                seen.update(json.loads(client.stdout.readline() or '{"error": "the client has ended"}'))
        if seen["error"]:
            raise RuntimeError(f"the client saw what must not be: {seen['error']}")


class Bench:
    """The rounds, and what they took so far."""

    def __init__(self, folder: Path, criu: Optional[str], rate: float) -> None:
        self._folder = folder
        self._criu = criu
        self._rate = rate
        self.samples: dict[str, list[float]] = defaultdict(list)

    def ours(self, mebibytes: int) -> None:
        """Move by our engine."""
        with self._moving(f"ours {mebibytes}", mebibytes) as (pair, service):
            for number, stage, command in ((1, "post-freeze", GIVE), (2, "pre-restore", TAKE)):
                script = _SCRIPT.format(stage=stage, command=command)
                pair.run(number, "sh", "-c", 'printf %s "$0" >/tmp/hook; chmod 755 /tmp/hook', script)
            common = ["--tcp-established", "--action-script", "/tmp/hook"]
            # the network is there for nobody but these hosts, so no certificates are needed
            receiver = pair.start(2, *ENGINE, "receive", "--address", pair.address(2), *common, "--restore-detached")
            port = (receiver.stdout.readline() if receiver.stdout else "").split()[-1]
            way = ["--address", pair.address(2), "--port", port]
            told = pair.run(1, *ENGINE, "migrate", "--tree", str(service.pid), *way, *common, "--display-stats")
            receiver.communicate()
            self._note(f"ours {mebibytes}", told)

    def _note(self, name: str, told: str) -> None:
        """Take the figures out of what the engine has TOLD."""
        sent = sum(int(number) for number in re.findall(r"(\d+) bytes", told))
        self.samples[f"{name} sent"].append(sent / (1 << 20))
        self.samples[f"{name} rounds"].append(told.count("Round "))
        for part in PARTS:
            self.samples[f"{name} {part}"].append(int(re.findall(rf"{part} (\d+)", told)[0]) / 1e6)
        self.samples[f"{name} stop"].append(int(re.findall(r"(\d+) us \(", told)[0]) / 1e6)

    def by_hand(self, mebibytes: int) -> None:
        """Move by CRIU and rsync."""
        if self._criu is None:
            return
        with self._moving(f"hand {mebibytes}", mebibytes) as (pair, service):
            module = "[shm]\npath = /dev/shm\nuse chroot = no\nread only = no\nuid = root\n"
            pair.run(2, "sh", "-c", 'printf %s "$0" >/tmp/rsyncd.conf; rsync --daemon --config=/tmp/rsyncd.conf', module)
            tracks = subprocess.run([self._criu, "check", "--feature", "mem_dirty_track"], capture_output=True, check=False)
            report = self._folder / "sent"
            variables = {
                "destination": "h2",
                "destination_address": pair.address(2),
                "pid": service.pid,
                "criu": self._criu,
                "incremental": tracks.returncode == 0,
                "give": GIVE,
                "take": TAKE,
                "report": str(report),
            }
            play = [str(Path(sys.executable).parent / "ansible-playbook"), str(ROOT / "tests" / "bench" / "by_hand.yml")]
            words = [*play, "--inventory", str(pair.folder / "inventory.yml"), "--extra-vars", json.dumps(variables)]
            environment = {**os.environ, "ANSIBLE_PIPELINING": "true"}
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise RuntimeError(f"the playbook by hand failed: {(done.stdout + done.stderr)[-4000:]}")
            sent = re.findall(r"Total bytes sent: ([\d,]+)", report.read_text())
            self.samples[f"hand {mebibytes} sent"].append(sum(int(one.replace(",", "")) for one in sent) / (1 << 20))

    @contextmanager
    def _moving(self, name: str, mebibytes: int) -> Iterator[tuple[Pair, Service]]:
        """Provide two hosts, the first with a service that is written to; take the longest wait of its client."""
        seen: dict[str, Any] = {}
        more = [Path(self._criu).resolve().parent] if self._criu else []
        with Pair(Path(f"/run/stillframe-gap-{os.getpid()}"), more) as pair:
            service = Service(pair, mebibytes, self._rate)
            service.start()
            with service.loaded(seen):
                time.sleep(_CALM)
                began = time.monotonic()
                yield pair, service
                time.sleep(_CALM)
        longest = max((wait for sent, wait in seen["waits"] if sent + wait > began), default=0.0)
        before = max((wait for sent, wait in seen["waits"] if sent + wait <= began), default=0.0)
        self.samples[f"{name} gap"].append(longest)
        self.samples[f"{name} before"].append(before)
        print(f"  {name} MiB: {longest * 1000:.0f} ms (before: {before * 1000:.0f} ms), {seen['commands']} commands, none lost", flush=True)


def rows(sizes: list[int]) -> list[Row]:
    """Return what is told of moves of SIZES."""
    first, found = sizes[0], []
    for size in sizes:
        limits = {"limit": 150.0} if size == first else {"yardstick": f"ours {first} gap", "ratio": 1.5}
        found.append(Row(f"longest gap, {size} MiB" + ("" if size == first else f", {first} MiB"), f"ours {size} gap", **limits))  # type: ignore[arg-type]
        found += [Row(f"  the stop, {size} MiB", f"ours {size} stop"), *(Row(f"    {part}", f"ours {size} {part}") for part in PARTS)]
    found.append(Row(f"longest gap, {first} MiB, by hand", f"ours {first} gap", f"hand {first} gap", ratio=1 / 20))
    found.append(Row(f"sent, {first} MiB, by hand", f"ours {first} sent", f"hand {first} sent", ratio=1.0, unit="MiB"))
    return found


def main() -> int:
    """Run the benchmark; the exit status tells only whether it could be run."""
    parser = argparse.ArgumentParser(prog="gap", description="Time the gap that a client sees while its server moves.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", default="1024,4096", help="memory of the server, the first also moved by hand (default: 1024,4096)")
    parser.add_argument("--rate", type=float, default=500, help="writes a second (default: 500)")
    parser.add_argument("--json", default="", help="write all samples to this file")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("run it as root")
    sizes, criu = [int(size) for size in options.mib.split(",")], find_criu(ROOT)
    if not shutil.which("rsync"):
        criu = None
    print(f"A redis of {options.mib} MiB, {options.rate:g} writes a second, {options.rounds} rounds, {os.cpu_count()} processors.")
    print(f"CRIU: {criu or 'none that works here, or no rsync; set STILLFRAME_CRIU, or fetch one by tests/interop/get-criu .cache/criu'}")
    with tempfile.TemporaryDirectory(prefix="stillframe-gap-") as folder:
        bench = Bench(Path(folder), criu, options.rate)
        for number in range(1, options.rounds + 1):
            print(f"round {number}, load {os.getloadavg()[0]:.1f}", flush=True)
            for size in sizes:
                bench.ours(size)
            bench.by_hand(sizes[0])
    results = [evaluate(row, bench.samples) for row in rows(sizes)]
    print(render(results))
    if options.json:
        body = {"mib": sizes, "rounds": options.rounds, "results": as_dicts(results), "samples": bench.samples}
        Path(options.json).write_text(json.dumps(body, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
