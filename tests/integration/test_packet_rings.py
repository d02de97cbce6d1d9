# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Rings of packet sockets that a program has mapped: they receive again after the restore."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from _engine.kernel import procfs
from victim import PROGRAMS, Lab, Victim, read_line, sentence

ETHERTYPE = 0x88B5


def start(lab: Lab) -> Victim:
    """Start tests/programs/packet_ring.py."""
    for name in ("ask", "answer"):
        os.mkfifo(lab.folder / name)
    answers = os.open(lab.folder / "answer", os.O_RDWR | os.O_CLOEXEC)
    process = lab.spawn([sys.executable, str(PROGRAMS / "packet_ring.py"), str(lab.folder)])
    assert read_line(answers, process.pid) == "ready"
    os.close(answers)
    return Victim(lab.folder, process.pid)


def send(*texts: str) -> None:
    """Send a packet with each of TEXTS over the loopback interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        for text in texts:
            sock.sendto(text.encode(), ("lo", ETHERTYPE, 0, 0, bytes(6)))


def mapped(pid: int) -> list[procfs.Area]:
    """Return the rings that PID has mapped."""
    return [area for area in procfs.maps(pid) if area.name.startswith("socket:[")]


def test_they_receive_again(lab: Lab) -> None:
    victim = start(lab)
    send("one", "two", "three")
    assert victim.ask("tell") == "one three two"
    before = mapped(victim.pid)
    images = lab.dump(victim.pid, "1")
    lab.reap()
    lab.restore(images)
    after = mapped(victim.pid)
    assert [(area.start, area.end, area.perms) for area in after] == [(area.start, area.end, area.perms) for area in before]
    assert after[0].name in {os.readlink(f"/proc/{victim.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{victim.pid}/fd")}
    assert victim.ask("tell") == "nothing"
    for _time in range(5):  # more than the ring has frames
        send("four", "five", "six", "seven")
        assert victim.ask("tell") == "five four seven six"


@pytest.mark.parametrize(("question", "why"), [("unmap", "a part of the rings"), ("close", "that the process has closed")])
def test_what_of_them_is_refused(lab: Lab, question: str, why: str) -> None:
    victim = start(lab)
    assert victim.ask(question) == "nothing"
    said = sentence(lab.engine("dump", "--tree", victim.pid, "--images-dir", lab.images("1")))
    assert f"process {victim.pid}, mapping" in said and why in said
    assert victim.ask("tell") == "nothing"
