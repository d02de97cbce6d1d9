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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from victim import PATIENCE, PROGRAMS, Lab, Victim, engine, until

_HOST = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", '"$@" & wait $!; : > "$0"; exec sleep infinity']
"""The first process of a host outlives the receiver, and makes a file when that has ended."""


@dataclass
class Host:
    """Another host, with a receiver on it."""

    socket: Path
    process: subprocess.Popen[bytes]
    output: Path
    ended: Path

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
        return {there: here for there, here in self.processes().items() if "/python" not in _program(here)}

    def result(self) -> dict[str, Any]:
        """Return what the receiver wrote, when it has ended; nothing when it was killed."""
        until(self.ended.exists, "the receiver does not end")
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


def _program(pid: int) -> str:
    """Return the path of the program of PID, as if it were Python's when it is just ending."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return "/python"


def host(lab: Lab, name: str = "host", prefix: Sequence[str] = (), **values: Any) -> Host:
    """Start a host, by PREFIX, with a receiver that waits; VALUES as `mover.py` takes them."""
    return _start(lab, [*prefix, *_HOST], name, values)


def host_by_command(lab: Lab, *words: object) -> tuple[Host, str]:
    """Start a host on which bin/stillframe runs with WORDS; return it, and the first line that is written there."""
    output, ended = lab.folder / "command.output", lab.folder / "command.ended"
    with open(output, "wb") as written:
        started = lab.spawn([*_HOST, str(ended), *engine(*words)], stdout=written, stderr=written)
    until(lambda: b"\n" in output.read_bytes() or started.poll() is not None, "the receiver does not come up")
    return Host(lab.folder, started, output, ended), output.read_text().splitlines()[0]


def _start(lab: Lab, prefix: list[str], name: str, values: dict[str, Any], process: Any = None) -> Host:
    socket, output, ended = (lab.folder / f"{name}{suffix}" for suffix in ("", ".output", ".ended"))
    first = [] if process else [str(ended)]
    command = [*prefix, *first, sys.executable, str(PROGRAMS / "mover.py"), "receive", str(socket), json.dumps(values)]
    with open(output, "wb") as written, open(lab.folder / f"{name}.log", "wb") as log:
        started = lab.spawn(command, stdout=written, stderr=log)
    until(lambda: socket.exists() or started.poll() is not None, "the receiver does not come up")
    assert socket.exists(), (lab.folder / f"{name}.log").read_text()
    return Host(socket, process or started, output, ended)


def move(victim: Victim, to: Host, prefix: Sequence[str] = (), **values: Any) -> dict[str, Any]:
    """Move VICTIM; return what the source, run by PREFIX, wrote: nothing when it was killed."""
    return _mover("migrate", str(to.socket), str(victim.pid), json.dumps(values), prefix=prefix)


def plan(victim: Victim, to: Host, **values: Any) -> dict[str, Any]:
    """Ask how VICTIM would move; return what the source wrote."""
    return _mover("plan", str(to.socket), str(victim.pid), json.dumps(values))


def settle(session: str, to: Host) -> dict[str, Any]:
    """Ask what became of SESSION, and end or continue the tree here accordingly; return what the source wrote."""
    return _mover("settle", str(to.socket), session, "{}")


def undecided(victim: Victim) -> str:
    """Return the session of VICTIM that is left in doubt here."""
    found = [path for path in Path("/run/stillframe").glob("*-source-*.move") if f"[{victim.pid}, " in path.read_text()]
    return found[0].stem.partition("source-")[2]


def _mover(*words: str, prefix: Sequence[str] = ()) -> dict[str, Any]:
    command = [*prefix, sys.executable, str(PROGRAMS / "mover.py"), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return dict(json.loads(lines[-1])) if lines else {}
