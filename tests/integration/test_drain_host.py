# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""playbooks/drain_host.yml: every configured service of a host goes to others, also when an engine is killed.

One story, since each playbook takes its time. The engine is killed where that leaves the most to be put right: the service runs on
its new host, and nobody has told the old one. `test_migrate_faults.py` has all other faults.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet import Fleet, redis, start_redis, tidy

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts of namespaces need root"),
    pytest.mark.skipif(not all(map(shutil.which, ("redis-server", "openssl", "ip"))), reason="needs redis-server, openssl and iproute2"),
    pytest.mark.skipif(not os.path.exists("/usr/sbin/sshd"), reason="needs openssh-server"),
]
_PORTS = {"one": 7001, "two": 7002}
_SERVICES = [{"name": name, "pid_file": f"/run/{name}.pid"} for name in _PORTS]
_KILLED = {"decision_timeout": 1, "hooks": {"post-resume": {"run": "kill -9 $PPID"}}}
"""Options of a move whose engine is killed on the destination."""
_FREE = {2: 8_000_000, 3: 8_001_000}
"""Kilobytes that hosts say are free: the first service makes the second one the fuller."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Three hosts, with two services on the first one."""
    made = Fleet(Path(f"/run/stillframe-drain-{os.getpid()}"), tmp_path)
    try:
        made.hosts("up", 3)
        for name, port in _PORTS.items():
            start_redis(made, 1, name, port)
            redis(made, 1, f"set name {name}", port)
        for host, free in _FREE.items():
            made.run(host, f"sed 's/^MemAvailable:.*/MemAvailable: {free} kB/' /proc/meminfo >/meminfo")
            made.run(host, "mount --bind /meminfo /proc/meminfo")
        yield made
    finally:
        made.hosts("down")


def where(fleet: Fleet) -> dict[str, list[int]]:
    """Return on which hosts each service runs, with its data."""
    return {name: [host for host in (1, 2, 3) if redis(fleet, host, "get name", port) == name] for name, port in _PORTS.items()}


def drain(fleet: Fleet, *words: str, **options: Any) -> tuple[int, str]:
    """Drain the first host, with OPTIONS for the first service."""
    services = [{**_SERVICES[0], **options}, *_SERVICES[1:]]
    return fleet.play("stillframe.checkpoint.drain_host", *words, host="h1", migrate_services=services)


def test_a_host_is_drained(fleet: Fleet) -> None:
    start_redis(fleet, 2, "other", _PORTS["two"])
    status, output = drain(fleet, "--check")
    assert "one goes to h3" in output and "two goes to h2" in output, output
    assert status != 0 and "one would go to h3 in" in output and "another program listens" in output, output
    redis(fleet, 2, "shutdown nosave", _PORTS["two"])
    assert where(fleet) == {"one": [1], "two": [1]}

    status, output = drain(fleet, **_KILLED)
    assert status != 0 and "That has been settled since." in output and "It runs on h3." in output, output
    assert where(fleet) == {"one": [3], "two": [1]}, output
    tidy(fleet, 1, 2, 3)

    status, output = drain(fleet)
    assert status == 0 and where(fleet) == {"one": [3], "two": [3]}, output
    tidy(fleet, 1, 2, 3)

    status, output = drain(fleet)
    assert status == 0 and output.count("changed=0") == output.count("changed="), output
