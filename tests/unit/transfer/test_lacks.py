# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a destination lacks is told all at once; what came of the needs of a tree is looked at first."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from _engine.errors import MoveError
from _engine.transfer import lacks, needs
from _engine.transfer.needs import File, Needs


@pytest.fixture
def own() -> Needs:
    """Return what we need ourselves, but for our numbers, which are taken."""
    return replace(needs.look([os.getpid()]), numbers=(), ports=())


def places(found: Needs) -> list[str]:
    return [one.where for one in lacks.obstacles(found)]


def test_a_host_lacks_nothing_of_its_own(own: Needs) -> None:
    assert sys.executable and own.programs and own.memory
    assert [where for where in places(own) if not where.startswith("kernel feature")] == []
    assert lacks.warnings(own) == []


def test_all_is_told_at_once(own: Needs, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    path, size, build = own.programs[0]
    files = (File(str(tmp_path / "gone"), 1, 0, False), File(str(tmp_path / "other"), 1, 0, False), File(str(tmp_path), 1, 0, False))
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = places(
            replace(
                own,
                cpu=(*own.cpu, "time_travel"),
                memory=1 << 60,
                huge=1 << 60,
                numbers=(os.getpid(),),
                programs=((path, size + 1, build), ("/gone", 1, "")),
                files=files,
                ports=(("tcp", "127.0.0.1", server.getsockname()[1]),),
            )
        )
        port = f"port {server.getsockname()[1]}"
    expected = {"processor", "memory", "huge pages", f"PID {os.getpid()}", path, "/gone", port, *(one.path for one in files)}
    assert expected <= set(found)


def test_a_file_that_the_tree_writes_to_may_have_grown(own: Needs, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"much")
    there = path.stat().st_mtime_ns
    assert str(path) not in places(replace(own, files=(File(str(path), 1, there, True),)))
    assert str(path) in places(replace(own, files=(File(str(path), 1, there + 1, True),)))
    assert str(path) in places(replace(own, files=(File(str(path), 1, there, False),)))


def test_only_a_socket_of_the_same_address_is_in_the_way(own: Needs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address, collides in (("127.0.0.2", False), ("0.0.0.0", True), ("127.0.0.1", True)):
            assert (f"port {port}" in places(replace(own, ports=(("tcp", address, port),)))) == collides


def test_a_taken_udp_port_and_a_wrong_clock_are_worth_a_warning(own: Needs) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        told = lacks.warnings(replace(own, ports=(("udp", "0.0.0.0", port),), time=time.time() - 3600))
    assert len(told) == 2 and "3600.0 s ahead" in told[0] and f"UDP port {port}" in told[1], told
    assert "behind" in lacks.warnings(replace(own, time=time.time() + 3600))[0]


def test_a_feature_counts_that_the_tree_needs(own: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = lacks.check(("tun",))
    monkeypatch.setattr(lacks, "check", lambda names: lacking)
    assert places(own) == [] and places(replace(own, features=("tun",))) == ["kernel feature tun"]


@pytest.mark.parametrize(
    "change",
    [
        {"files": [["/x"]]},
        {"files": [["/x", "1", 0, False]]},
        {"files": [["a\0b", 1, 0, False]]},
        {"files": [["/x", -2, 0, False]]},
        {"features": [1]},
        {"time": "now"},
        {"time": 1e400},
        {"huge": -1},
        {"ports": [["tcp", "::", "x"]]},
    ],
)
def test_what_makes_no_sense_is_refused(own: Needs, change: dict[str, Any]) -> None:
    assert Needs.read(json.loads(json.dumps(own.values()))).files == own.files
    with pytest.raises(MoveError):
        Needs.read({**json.loads(json.dumps(own.values())), **change})
