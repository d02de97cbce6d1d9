# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves between this machine and another one: a PID namespace with a /proc of its own, in which the same PIDs are free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from victim import PATIENCE, PROGRAMS, Lab, Victim, until

_HOST = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", '"$@" & wait $!; exec sleep infinity', "host"]
"""The first process of a host outlives the receiver."""


@dataclass
class Host:
    """Another host, with a receiver on it."""

    socket: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def init(self) -> int:
        """The first process of the host, by its number here."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def processes(self) -> dict[int, int]:
        """Return the processes that live there but the first one: their numbers here by their numbers there."""
        from look import tree

        found = {}
        for pid in tree(self.init):
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{pid}/status").read_text()
                lines = {line.partition(":")[0]: line.partition(":")[2].split() for line in status.splitlines()}
                if lines["State"][0] != "Z" and pid != self.init:
                    found[int(lines["NSpid"][-1])] = pid
        return found

    def tree(self) -> dict[int, int]:
        """Return its processes but the receiver."""
        return {there: here for there, here in self.processes().items() if b"mover.py" not in Path(f"/proc/{here}/cmdline").read_bytes()}

    def receiver(self) -> int:
        """Return the receiver's number here, 0 when it has ended."""
        for here in self.processes().values():
            with suppress(FileNotFoundError):
                if b"mover.py" in Path(f"/proc/{here}/cmdline").read_bytes().replace(b"stub", b""):
                    return here
        return 0

    def result(self) -> dict[str, Any]:
        """Return what the receiver wrote, when it has ended; nothing when it was killed."""
        until(lambda: not self.receiver(), "the receiver does not end")
        lines = self.output.read_text().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def victim(self, victim: Victim) -> Victim:
        """Return VICTIM as it runs there."""
        return Victim(victim.directory, self.tree()[victim.pid])

    def receive(self, lab: Lab, **values: Any) -> Host:
        """Start another receiver on the same host."""
        return _start(lab, ["nsenter", "--target", str(self.init), "--pid", "--mount"], f"again{self.socket.name}", values, self.process)

    def end(self) -> None:
        """Take the host down."""
        with suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(self.init, signal.SIGKILL)


def host(lab: Lab, name: str = "host", **values: Any) -> Host:
    """Start a host with a receiver that waits; VALUES as `mover.py` takes them."""
    return _start(lab, _HOST, name, values)


def _start(lab: Lab, prefix: list[str], name: str, values: dict[str, Any], process: Any = None) -> Host:
    socket, output = lab.folder / name, lab.folder / f"{name}.output"
    command = [*prefix, sys.executable, str(PROGRAMS / "mover.py"), "receive", str(socket), json.dumps(values)]
    with open(output, "wb") as written, open(lab.folder / f"{name}.log", "wb") as log:
        started = lab.spawn(command, stdout=written, stderr=log)
    until(lambda: socket.exists() or started.poll() is not None, "the receiver does not come up")
    return Host(socket, process or started, output)


def move(lab: Lab, victim: Victim, to: Host, verb: str = "migrate", **values: Any) -> dict[str, Any]:
    """Move VICTIM; return what the source wrote: nothing when it was killed."""
    command = [sys.executable, str(PROGRAMS / "mover.py"), verb, str(to.socket), str(victim.pid), json.dumps(values)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
