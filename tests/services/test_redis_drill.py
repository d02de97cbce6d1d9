# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A drill of redis-server: its data is asked for by redis-cli inside, while the original goes on with the same PID, port and files."""

from __future__ import annotations

import shutil

import pytest

from service import await_port, free_port
from test_redis import Redis
from victim import Lab, until


@pytest.mark.skipif(not shutil.which("redis-server") or not shutil.which("redis-cli"), reason="needs redis")
def test_drill_beside_redis(lab: Lab) -> None:
    port, data = free_port(), lab.folder / "data"
    data.mkdir()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "", "--dir", str(data)]
    pid = lab.spawn(["redis-server", *options]).pid
    await_port(port)
    asking = Redis.__new__(Redis)
    asking.port = port
    until(lambda: asking.ask("ping") == "PONG", "redis is not ready")
    assert asking.ask("set", "number", "1") == "OK"
    path = lab.dump(pid, "1", "--leave-running")
    assert asking.ask("set", "number", "2") == "OK"
    script = f"redis-cli -p {port} get number; redis-cli -p {port} info server | grep process_id; redis-cli -p {port} set number 3"
    done = lab.engine("drill", "--images-dir", path, "--", "/bin/sh", "-c", script)
    assert (done.returncode, done.stdout.split()) == (0, ["1", f"process_id:{pid}", "OK"]), done.stderr
    assert asking.ask("get", "number") == "2"
    assert any(b"number" in file.read_bytes() for file in data.rglob("*.aof"))
    assert not any(b"\r\n3\r\n" in file.read_bytes() for file in data.rglob("*.aof"))
