# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a move by the playbook when something is killed, cut, filled or changed at any of its phases.

In the end the service runs on exactly one host, with all that it has acknowledged, the playbook has said where, and the same move
made again succeeds and leaves nothing behind. One such fault is in test_drain_host.py; all of them take more than an hour.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults import DESTINATION, FAULTS, SOURCE
from fleet import Fleet, redis, start_redis, tidy
from victim import PATIENCE, until

pytestmark = [
    pytest.mark.skipif(not os.environ.get("STILLFRAME_ALL_FAULTS"), reason="takes more than an hour; STILLFRAME_ALL_FAULTS=1 runs it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="hosts of namespaces need root"),
    pytest.mark.skipif(not all(map(shutil.which, ("redis-server", "openssl", "ip", "nft"))), reason="needs redis, openssl, ip and nft"),
    pytest.mark.skipif(not os.path.exists("/usr/sbin/sshd"), reason="needs openssh-server"),
]
STAGES = {
    "pre-freeze": SOURCE,
    "post-freeze": SOURCE,
    "pre-restore": DESTINATION,
    "post-restore": DESTINATION,
    "pre-resume": DESTINATION,
    "post-resume": DESTINATION,
}
"""Each with the host that it is on."""
PHASES = ("certificates", "waiting", "round", *STAGES)
ADDRESS = "10.78.0.50/32"
_WRITER = """
import socket, time
number = 0
while True:
    try:
        with socket.create_connection(("10.78.0.50", 6379), 5) as service, service.makefile("rb") as answers:
            while True:
                service.sendall(b"SADD written %d\\r\\n" % number)
                if not answers.readline().startswith(b":"):
                    break
                print(number, flush=True)
                number += 1
                time.sleep(0.01)
    except OSError:
        time.sleep(0.05)
"""
"""A client that writes one number after the other, and tells which were acknowledged; it connects again when it has to."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts."""
    made = Fleet(Path(f"/run/stillframe-faults-{os.getpid()}"), tmp_path_factory.mktemp("faults"))
    try:
        made.hosts("up", 2)
        yield made
    finally:
        made.hosts("down")


@pytest.fixture
def fleet(hosts: Fleet) -> Iterator[Fleet]:
    """The hosts, with a service on the first one."""
    hosts.run(SOURCE, f"ip address replace {ADDRESS} dev eth0")
    for host in (SOURCE, DESTINATION):
        hosts.run(host, "rm -f /run/reached /run/go; mkfifo /run/reached /run/go")
    start_redis(hosts, SOURCE)
    subprocess.run(["ip", "-n", hosts.folder.name, "neigh", "flush", "all"], check=True)  # the address was elsewhere before
    inside = ["nsenter", f"--net=/run/netns/{hosts.folder.name}", sys.executable, "-c", _WRITER]
    with (hosts.work / "acknowledged").open("w") as acknowledged:
        writer = subprocess.Popen(inside, stdout=acknowledged)
    try:
        yield hosts
    finally:
        writer.kill()
        writer.wait()
        for host in (SOURCE, DESTINATION):
            hosts.kill(host, "redis-server")
            hosts.run(host, f"ip address delete {ADDRESS} dev eth0 2>/dev/null; rm -f /run/redis.pid")


def variables(phase: str = "") -> dict[str, Any]:
    """Return the variables of a move that waits at PHASE, where that is a stage, or takes long, until it is let go on."""
    service = {
        "name": "redis",
        "pid_file": "/run/redis.pid",
        "floating_address": ADDRESS,
        "floating_device": "eth0",
        "tcp_established": True,
        "check_command": "redis-cli ping",
        "link_timeout": 8,
        "decision_timeout": 4,
        "hooks": {phase: {"run": "echo >/run/reached; read -r go </run/go"}} if phase in STAGES else {},
        "bandwidth_limit": 300_000 if phase == "round" else 0,
    }
    return {"source": "h1", "destination": "h2", "service": "redis", "migrate_services": [service]}


def reach(fleet: Fleet, phase: str, running: subprocess.Popen[str], pid: str) -> None:
    """Wait until the move of process PID has come to PHASE."""
    if phase in STAGES:
        fleet.run(STAGES[phase], f"timeout {PATIENCE} cat /run/reached")
    else:
        name = {"certificates": "peer.pem", "waiting": "ready.json"}.get(phase)
        path = fleet.path(DESTINATION, f"/run/stillframe/migrate-redis/{name}" if name else f"/proc/{pid}")
        until(lambda: running.poll() is not None or path.exists(), f"it does not come to {phase}")
    assert running.poll() is None, running.communicate()[0]


def where(fleet: Fleet) -> list[int]:
    """Return the hosts on which the service answers."""
    return [host for host in (SOURCE, DESTINATION) if redis(fleet, host, "ping") == "PONG"]


def acknowledged(fleet: Fleet) -> set[str]:
    """Return the numbers that the client was told are written."""
    return set((fleet.work / "acknowledged").read_text().split())


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault(fleet: Fleet, name: str, phase: str) -> None:
    fault = FAULTS[name]
    until(lambda: len(acknowledged(fleet)) > 9, "nothing is written")
    fault.prepare(fleet)
    running = fleet.playbook("stillframe.checkpoint.migrate", **variables(phase))
    try:
        reach(fleet, phase, running, fleet.run(SOURCE, "cat /run/redis.pid"))
        fault.strike(fleet, running)
        for host in (SOURCE, DESTINATION):
            fleet.run(host, "timeout 1 sh -c 'echo >/run/go'")
        output = running.communicate(timeout=5 * PATIENCE)[0]
    finally:
        fault.mend(fleet)
    found = where(fleet)
    print(name, phase, running.returncode, found, output)
    if running.returncode and fault.said:
        said = {"It runs on h1": [SOURCE], "It runs on h2": [DESTINATION]}
        assert any(text in output for text in (*said, "Where it runs cannot be told", "It is left stopped on h1", "UNREACHABLE")), output
        assert all(found == hosts for text, hosts in said.items() if text in output), output
    elif fault.said:
        assert found == [DESTINATION]
    status, again = fleet.play("stillframe.checkpoint.migrate", **variables())
    assert status == 0, again
    assert where(fleet) == [DESTINATION]
    before = acknowledged(fleet)
    until(lambda: len(acknowledged(fleet)) > len(before), "its client does not go on")
    assert before <= set(redis(fleet, DESTINATION, "smembers written").split())
    tidy(fleet, SOURCE, DESTINATION)
    addresses = [fleet.run(host, f"ip -o address show to {ADDRESS}") for host in (SOURCE, DESTINATION)]
    assert not addresses[0] and addresses[1], again
    assert fleet.run(SOURCE, "cat /run/redis.pid") == "" and fleet.run(DESTINATION, "cat /run/redis.pid")
