# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts made of namespaces (extensions/molecule/shared/hosts), and what playbooks do with services on them."""

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

from victim import PATIENCE, until

ROOT = Path(__file__).parent.parent.parent
_HOSTS = ROOT / "extensions" / "molecule" / "shared" / "hosts"


@dataclass(frozen=True)
class Fleet:
    """Hosts h1, h2 … that run."""

    folder: Path
    """Of everything that `hosts` makes; its name is in what is made."""
    work: Path

    def hosts(self, *words: object) -> str:
        """Run the program `hosts`; return what it writes."""
        environment = {**os.environ, "STILLFRAME_HOSTS": str(self.folder)}
        command, pipes = [str(_HOSTS), *map(str, words)], {"stdin": subprocess.DEVNULL, "capture_output": True}
        done = subprocess.run(command, env=environment, text=True, timeout=PATIENCE, check=False, **pipes)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        return done.stdout

    def first(self, host: int) -> int:
        """Return the first process of HOST, by its number here."""
        return int((self.folder / f"h{host}" / "pid").read_text())

    def run(self, host: int, script: str) -> str:
        """Run SCRIPT in a shell on HOST, past its sshd; return what it writes."""
        inside = ["nsenter", "--target", str(self.first(host)), "--all", "/bin/sh", "-c", script]
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return subprocess.run(inside, text=True, timeout=PATIENCE, check=False, **pipes).stdout.strip()

    def path(self, host: int, name: str) -> Path:
        """Return the file NAME of HOST as it is reached from here."""
        return Path(f"/proc/{self.first(host)}/root{name}")

    def processes(self, host: int) -> list[int]:
        """Return all processes on HOST, by their numbers here."""
        mine, found = os.readlink(f"/proc/{self.first(host)}/ns/pid"), []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if os.readlink(entry / "ns" / "pid") == mine:
                    found.append(int(entry.name))
        return found

    def kill(self, host: int, words: str) -> None:
        """Kill all processes on HOST whose command line has WORDS in it."""
        for pid in self.processes(host):
            with suppress(FileNotFoundError, ProcessLookupError):
                if words in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode():
                    os.kill(pid, signal.SIGKILL)

    def playbook(self, name: str, *words: str, **variables: Any) -> subprocess.Popen[str]:
        """Start the playbook NAME of the collection, with VARIABLES, in a process group of its own."""
        collections = self.work / "collections"
        link = collections / "ansible_collections" / "stillframe" / "checkpoint"
        if not link.exists():
            link.parent.mkdir(parents=True)
            link.symlink_to(ROOT)
        settings = {"COLLECTIONS_PATH": collections, "LOCALHOST_WARNING": 0, "NOCOLOR": 1, "PIPELINING": 1, "HOME": self.work / "ansible"}
        environment = {**os.environ, **{f"ANSIBLE_{key}": str(value) for key, value in settings.items()}}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.folder / "inventory.yml"), name, *words]
        pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        address = "{{ hostvars[migrate_destination].host_address }}"
        common = {"migrate_address": address, "prepare_packages": [], "migrate_report_dir": str(self.work / "reports")}
        command += ["-e", json.dumps({**common, **variables})]
        return subprocess.Popen(command, env=environment, cwd=self.work, text=True, start_new_session=True, **pipes)

    def play(self, name: str, *words: str, **variables: Any) -> tuple[int, str]:
        """Run a playbook; return its exit status and what it writes."""
        process = self.playbook(name, *words, **variables)
        output = process.communicate(timeout=10 * PATIENCE)[0]
        return process.returncode, output


def start_redis(fleet: Fleet, host: int, name: str = "redis", port: int = 6379) -> None:
    """Start a Redis on HOST, with its PID file at /run/NAME.pid, and a PID that no other host is at."""
    fleet.run(host, f"echo {3 * port} >/proc/sys/kernel/ns_last_pid")
    options = f"--bind 0.0.0.0 --protected-mode no --port {port} --pidfile /run/{name}.pid --dir /var/tmp --save ''"
    fleet.run(host, f"redis-server --daemonize yes {options}")
    until(lambda: redis(fleet, host, "ping", port) == "PONG", f"{name} does not start")


def redis(fleet: Fleet, host: int, command: str, port: int = 6379) -> str:
    """Return what the Redis on HOST answers to COMMAND, nothing where none runs."""
    return fleet.run(host, f"timeout 5 redis-cli -p {port} {command} 2>/dev/null")


_TRACES = """
ls -d /run/stillframe/*migrate* /run/stillframe/*-source-* /root/.ansible/tmp/* /tmp/* /dev/shm/* 2>/dev/null
nft list tables
grep -l 'A[n]siballZ_' /proc/[0-9]*/cmdline 2>/dev/null
grep -l 'State:.[TtZ]' /proc/[0-9]*/status 2>/dev/null
"""


def traces(fleet: Fleet, host: int) -> str:
    """Return what a move has left on HOST: engines, files, tables of nf_tables, processes that do not run."""
    return fleet.run(host, _TRACES)


def tidy(fleet: Fleet, *hosts: int) -> None:
    """Fail unless a move leaves nothing on HOSTS. Ansible's own wrapper around what runs in the background ends a little later."""
    with suppress(AssertionError):
        until(lambda: not any(traces(fleet, host) for host in hosts), "something is left")
    assert [traces(fleet, host) for host in hosts] == [""] * len(hosts)
