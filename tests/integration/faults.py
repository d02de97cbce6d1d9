# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What can happen to a move between two hosts of a fleet, and how it is mended afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from fleet import Fleet

SOURCE, DESTINATION = 1, 2
_DIRECTORY = "/run/stillframe/migrate-redis"
_MARK = 7
_BUTTERFINGERS = f"""
import os, signal, socket, struct, sys, threading
awry = []
signal.signal(signal.SIGUSR1, lambda *_: awry.append(True))

def carry(source, sink):
    try:
        while data := bytearray(source.recv(65536)):
            if awry:
                awry.clear()
                data[len(data) // 2] ^= 1
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

def serve(inner):
    port, address = struct.unpack("!2xH4s8x", inner.getsockopt(0, 80, 16))  # SO_ORIGINAL_DST
    outer = socket.socket()
    outer.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, {_MARK})
    try:
        outer.connect((socket.inet_ntoa(address), port))
    except OSError:
        inner.close()
        return
    for ends in ((inner, outer), (outer, inner)):
        threading.Thread(target=carry, args=ends, daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
"""A proxy that changes one bit of what comes next when it gets SIGUSR1, with no error of TCP."""


class Fault:
    """Something that happens. `prepare` comes before the move, `strike` in it, and `mend` after it."""

    said = True
    """Whether the playbook can say what happened."""
    mended_first = False
    """Whether it is over before the playbook has ended."""

    def prepare(self, fleet: Fleet) -> None:
        """Set up what it takes."""

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        """Let it happen."""
        raise NotImplementedError

    def mend(self, fleet: Fleet) -> None:
        """Have it over."""


class EngineKilled(Fault):
    """The engine on a host is killed."""

    def __init__(self, host: int) -> None:
        self._host = host

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        for pid in engines(fleet, self._host):
            os.kill(pid, signal.SIGKILL)


class SshdKilled(Fault):
    """All of sshd on a host is killed."""

    def __init__(self, host: int) -> None:
        self._host = host

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        fleet.kill(self._host, "sshd")

    def mend(self, fleet: Fleet) -> None:
        fleet.run(self._host, "pgrep -o -x sshd >/dev/null || /usr/sbin/sshd")


class ControllerKilled(Fault):
    """The playbook is killed, with all that it has started."""

    said = False

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        os.killpg(playbook.pid, signal.SIGKILL)


class Unplugged(Fault):
    """The cable of the destination is pulled."""

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        fleet.hosts("unplug", DESTINATION)

    def mend(self, fleet: Fleet) -> None:
        fleet.hosts("plug", DESTINATION)


class Filtered(Fault):
    """What either host sends the other one is dropped, or answered with a reset."""

    def __init__(self, verdict: str) -> None:
        self._verdict = verdict

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        hook = "{ type filter hook %s priority 0; }"
        rules = [f"add chain ip fault {way} {hook % way}" for way in ("input", "output")]
        rules += [f"add rule ip fault {way} ip {end} 10.78.0.11 {self._verdict}" for way, end in (("input", "saddr"), ("output", "daddr"))]
        fleet.run(DESTINATION, f"nft '{'; '.join(['add table ip fault', *rules])}'")

    def mend(self, fleet: Fleet) -> None:
        fleet.run(DESTINATION, "nft delete table ip fault")


class Slowed(Fault):
    """What the source sends takes long."""

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        fleet.run(SOURCE, "tc qdisc add dev eth0 root tbf rate 2mbit burst 16kb latency 50ms")

    def mend(self, fleet: Fleet) -> None:
        fleet.run(SOURCE, "tc qdisc delete dev eth0 root")


class Corrupted(Fault):
    """A bit is changed on the wire."""

    def __init__(self) -> None:
        self._proxy: subprocess.Popen[str] | None = None

    def prepare(self, fleet: Fleet) -> None:
        inside = ["nsenter", "--target", str(fleet.first(SOURCE)), "--net", sys.executable, "-c", _BUTTERFINGERS]
        self._proxy = subprocess.Popen(inside, stdout=subprocess.PIPE, text=True)
        assert self._proxy.stdout is not None
        port = int(self._proxy.stdout.readline())
        chain = "chain ip fault output { type nat hook output priority -100; }"
        rule = f"rule ip fault output ip daddr 10.78.0.12 ip protocol tcp meta mark != {_MARK} redirect to :{port}"
        fleet.run(SOURCE, f"nft 'add table ip fault; add {chain}; add {rule}'")

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        assert self._proxy is not None
        self._proxy.send_signal(signal.SIGUSR1)

    def mend(self, fleet: Fleet) -> None:
        assert self._proxy is not None
        fleet.run(SOURCE, "nft delete table ip fault")
        self._proxy.kill()
        self._proxy.communicate()


class DiskFull(Fault):
    """No file can be written on a host, neither in /run nor in /tmp."""

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        fleet.run(DESTINATION, "for to in /run /tmp; do mount -o remount,size=2m $to; cat /dev/zero >$to/fault; done 2>/dev/null")

    def mend(self, fleet: Fleet) -> None:
        fleet.run(DESTINATION, "for to in /run /tmp; do rm -f $to/fault; mount -o remount,size=1g $to; done")


class MemoryFull(Fault):
    """The engine of the destination, and what it makes, get no more memory."""

    _group = Path("/sys/fs/cgroup/memory") / f"stillframe-fault-{os.getpid()}"

    def strike(self, fleet: Fleet, playbook: subprocess.Popen[str]) -> None:
        self._group.mkdir(exist_ok=True)
        (self._group / "memory.limit_in_bytes").write_text("200K")
        for pid in processes(fleet, DESTINATION, engines(fleet, DESTINATION)):
            with suppress(ProcessLookupError):
                (self._group / "cgroup.procs").write_text(str(pid))

    def mend(self, fleet: Fleet) -> None:
        (self._group / "memory.limit_in_bytes").write_text("-1")
        for pid in (self._group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (self._group.parent / "cgroup.procs").write_text(pid)
        self._group.rmdir()


FAULTS: dict[str, Fault] = {
    "source engine": EngineKilled(SOURCE),
    "destination engine": EngineKilled(DESTINATION),
    "source sshd": SshdKilled(SOURCE),
    "destination sshd": SshdKilled(DESTINATION),
    "controller": ControllerKilled(),
    "unplugged": Unplugged(),
    "stalled": Filtered("drop"),
    "reset": Filtered("reject with tcp reset"),
    "slow": Slowed(),
    "corrupted": Corrupted(),
    "disk full": DiskFull(),
    "memory full": MemoryFull(),
}


def engines(fleet: Fleet, host: int) -> list[int]:
    """Return the engines of the move on HOST, which have its log open, by their numbers here."""
    found = []
    for pid in fleet.processes(host):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                if int(entry.name) > 2 and os.readlink(entry).startswith(f"{_DIRECTORY}/log"):
                    found.append(pid)
                    break
    return found


def processes(fleet: Fleet, host: int, roots: list[int]) -> list[int]:
    """Return ROOTS and all that comes from them on HOST."""
    found = list(roots)
    for pid in found:
        found += [one for one in fleet.processes(host) if _parent(one) == pid]
    return found


def _parent(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
