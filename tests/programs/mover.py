# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""One end of a move: `receive SOCKET`, `migrate SOCKET PID` or `plan SOCKET PID`, and options as JSON; writes the result as JSON,
or the error.

With a fault, such as "kill ready before" or "cut pages after", it dies, or its connection breaks, when it sends such a frame.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "plugins", "module_utils"))

from _engine.errors import EngineError
from _engine.migrate import migrate, settle
from _engine.migrate_plan import plan
from _engine.options import MigrateOptions, ReceiveTreeOptions
from _engine.progress import Progress
from _engine.receive import receive
from _engine.transfer import wire


def listener(path: str) -> Callable[[float], socket.socket]:
    """Return what takes connections at PATH."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path + ".new")
    server.listen()
    os.rename(path + ".new", path)

    def accept(timeout: float) -> socket.socket:
        server.settimeout(timeout)
        return server.accept()[0]

    return accept


def connector(path: str) -> Callable[[float], socket.socket]:
    """Return what connects to PATH."""

    def connect(timeout: float) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(path)
        return made

    return connect


def break_at(fault: str) -> None:
    """Let this end die, or its connection break, as FAULT says; only once."""
    what, name, when = fault.split()
    kind, plain, done = wire.NAMES.index(name) + 1, wire.Link.send, []

    def strike(link: Any) -> None:
        if not done:
            done.append(True)
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            link._socket.shutdown(socket.SHUT_RDWR)

    def send(link: Any, sent: int, *parts: bytes) -> None:
        if sent == kind and when == "before":
            strike(link)
        plain(link, sent, *parts)
        if sent == kind and when == "after":
            strike(link)

    wire.Link.send = send  # type: ignore[method-assign]


def hook(commands: dict[str, str]) -> Callable[[str, Any], None]:
    """Return what runs the command that COMMANDS have for a stage."""

    def run(stage: str, environment: Any) -> None:
        if stage in commands:
            subprocess.run(commands[stage], shell=True, check=True)

    return run


def main(verb: str, path: str, *words: str) -> int:
    """Do as told; return the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    log = logging.getLogger("mover")
    values = json.loads(words[-1])
    if values.get("fault"):
        break_at(values["fault"])
    progress = Progress(lambda reading: log.info("progress %s", json.dumps(asdict(reading))), every=0)
    options = {**values.get("options", {}), "hook": hook(values.get("hooks", {})), "progress": progress}
    try:
        if verb == "receive":
            result: Any = receive(ReceiveTreeOptions(**options), listener(path), log)
        elif verb == "settle":
            print(json.dumps({"runs": settle(words[0], connector(path), 20)}), flush=True)
            return 0
        elif verb == "plan":
            result = plan(MigrateOptions(int(words[0]), **options), connector(path), log)
        else:
            result = migrate(MigrateOptions(int(words[0]), **options), connector(path), log)
    except EngineError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)
        return 1
    print(json.dumps(asdict(result) if result else None), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
