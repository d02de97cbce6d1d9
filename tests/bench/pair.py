# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hosts made of namespaces (extensions/molecule/shared/hosts), and an address that one of them has at a time.

The client's place is the network that the hosts are on. The address is on an interface of its own, which has the same MAC
address on both hosts: so nobody's tables have to be put right when it moves.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ADDRESS, CLIENT = "10.79.0.50", "10.79.0.1"
_SCRIPT = ROOT / "extensions" / "molecule" / "shared" / "hosts"
_MAC = "02:00:0a:4f:00:32"
GIVE, TAKE = (f"ip address {verb} {ADDRESS}/24 dev float0" for verb in ("del", "add"))


def _needed(more: Sequence[Path]) -> str:
    """Return the folders that hosts have to see: those of the checkout, of this Python and of its packages."""
    found = {ROOT.resolve(), Path(sys.base_prefix), *(path.resolve() for path in more)}
    for name in ("google.protobuf", "ptrace", "xxhash"):
        spec = find_spec(name)
        if spec is not None and spec.origin:
            origin = Path(spec.origin).resolve()
            found.add(next(one for one in origin.parents if one.name in ("site-packages", "dist-packages")))
    return " ".join(str(path) for path in sorted(found) if not str(path).startswith("/usr"))


class Pair:
    """The hosts 1 and 2. A context manager."""

    def __init__(self, folder: Path, more: Sequence[Path] = ()) -> None:
        """MORE: further folders that the hosts are to see."""
        self.folder = folder
        self._environment = {**os.environ, "STILLFRAME_HOSTS": str(folder), "STILLFRAME_HOSTS_BIND": _needed(more)}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def __enter__(self) -> Pair:
        try:
            self._script("up", "2")
            self.client("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
            self.client("ip", "address", "add", f"{CLIENT}/24", "dev", "bridge")
            self.client("ip", "neigh", "replace", ADDRESS, "lladdr", _MAC, "dev", "bridge", "nud", "permanent")
            for number in (1, 2):
                self._wire(f"{self.folder.name}-h{number}", f"float{number}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._script("down")

    def _script(self, *words: str) -> None:
        subprocess.run([str(_SCRIPT), *words], check=True, env=self._environment, stdout=subprocess.DEVNULL)

    def _wire(self, namespace: str, port: str) -> None:
        inside = ["ip", "netns", "exec", namespace]
        # an interface answers for its own address alone: float0 has the same MAC address on both hosts
        subprocess.run([*inside, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv4.conf.all.arp_ignore=1"], check=True)
        ends = ["type", "veth", "peer", "name", "float0", "address", _MAC, "netns", namespace]
        self.client("ip", "link", "add", port, *ends)
        self.client("ip", "link", "set", port, "master", "bridge", "up")
        subprocess.run([*inside, "ip", "link", "set", "float0", "up"], check=True)

    def client(self, *command: str) -> None:
        """Run COMMAND where the client is."""
        subprocess.run([*self.outside, *command], check=True)

    @staticmethod
    def address(number: int) -> str:
        """Return the address of host NUMBER that stays."""
        return f"10.78.0.{10 + number}"

    @property
    def outside(self) -> list[str]:
        """What goes before a command of the client."""
        return ["nsenter", f"--net=/run/netns/{self.folder.name}"]

    def inside(self, number: int, command: Sequence[str]) -> list[str]:
        """Return what runs COMMAND on host NUMBER."""
        return [str(_SCRIPT), "ssh", str(number), shlex.join(command)]

    def run(self, number: int, *command: str) -> str:
        """Run COMMAND on host NUMBER and return its output. Raises RuntimeError when it fails."""
        words = self.inside(number, command)
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self._environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed on host {number}: {(done.stdout + done.stderr)[-2000:]}")
        return done.stdout

    def start(self, number: int, *command: str) -> subprocess.Popen[str]:
        """Start COMMAND on host NUMBER, and return it with its output to be read."""
        words, pipe = self.inside(number, command), subprocess.PIPE
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=self._environment)
