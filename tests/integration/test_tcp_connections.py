# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections through dumps and restores: not a byte is lost or doubled, and no end sees an error."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from victim import PROGRAMS, Lab, children, state, until

sys.path.insert(0, str(PROGRAMS))
from streams import Client

ESTABLISHED = "--tcp-established"
LOCK, HOLD, TAKE, LET, HOLD_AGAIN, KEEP = range(6)
"""The requests to the guard of one connection."""
MUCH = 1 << 17
"""Bytes that tell that a connection goes on."""


def start(lab: Lab, role: str, address: str) -> int:
    """Start streams.py and return its PID."""
    return lab.spawn([sys.executable, str(PROGRAMS / "streams.py"), role, str(lab.folder), address]).pid


def received(lab: Lab, name: str) -> int:
    """Return how much the end NAME in the tree has received."""
    path = lab.folder / f"received-{name}"
    return int.from_bytes(path.read_bytes(), "big") if path.exists() else 0


def assert_goes_on(lab: Lab, *names: str) -> None:
    """Fail unless all ends NAMES in the tree receive much more, and none found a fault."""
    before = {name: received(lab, name) for name in names}
    failed = lab.folder / "failed"
    until(lambda: failed.exists() or all(received(lab, name) > before[name] + MUCH for name in names), f"{names} receive nothing")
    assert not failed.exists(), failed.read_text()


@contextmanager
def connected(lab: Lab, address: str, role: str = "server") -> Iterator[tuple[int, Client]]:
    """A server in a tree of its own, and its client, which is us."""
    pid = start(lab, role, address)
    until((lab.folder / "port").exists, "the server does not start")
    with Client(address, int((lab.folder / "port").read_text())) as client:
        assert_goes_on(lab, "server")
        yield pid, client
        assert not client.error


def tables() -> str:
    """Return the names of the tables of nf_tables, as far as a program is here that tells them."""
    try:
        return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_client_outside_notices_nothing(lab: Lab, address: str) -> None:
    with connected(lab, address) as (pid, client):
        for number in range(2):
            lab.dump(pid, str(number), "--leave-running", ESTABLISHED)
            assert_goes_on(lab, "server")
        assert "CRIU-" not in tables()
        path = lab.dump(pid, "last", ESTABLISHED)
        lab.reap()
        before = client.count
        lab.restore(path, ESTABLISHED)
        assert_goes_on(lab, "server")
        until(lambda: client.count > before + MUCH or bool(client.error), "the client receives nothing")
        assert "CRIU-" not in tables()


def test_threads_and_signals_are_not_disturbed(lab: Lab) -> None:
    with connected(lab, "127.0.0.1", "busy") as (pid, _client):
        for number in range(3):
            lab.dump(pid, str(number), "--leave-running", ESTABLISHED)
            assert_goes_on(lab, "server")
        assert os.waitid(os.P_PID, pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG | os.WNOWAIT) is None
        path = lab.dump(pid, "last", ESTABLISHED)
        lab.reap()
        lab.restore(path, ESTABLISHED)
        assert_goes_on(lab, "server")


def test_both_ends_in_the_tree_and_restored_twice(lab: Lab) -> None:
    pid = start(lab, "pair", "127.0.0.1")
    assert_goes_on(lab, "server", "client")
    lab.dump(pid, "first", "--leave-running", ESTABLISHED)
    assert_goes_on(lab, "server", "client")
    path = lab.dump(pid, "last", ESTABLISHED)
    lab.reap()
    for _time in range(2):
        lab.restore(path, ESTABLISHED)
        assert_goes_on(lab, "server", "client")
        lab.end(pid)
        (lab.folder / "failed").unlink(missing_ok=True)  # the end that was killed last may have seen the other go


def test_a_failed_restore_leaves_the_peer_waiting(lab: Lab) -> None:
    with connected(lab, "127.0.0.1") as (pid, client):
        path = lab.dump(pid, "last", ESTABLISHED)
        lab.reap()
        script = lab.folder / "fail"
        script.write_text('#!/bin/sh\ntest "$CRTOOLS_SCRIPT_ACTION" != post-restore\n')
        script.chmod(0o755)
        words = ("restore", "--images-dir", path, "--restore-detached", ESTABLISHED)
        assert lab.engine(*words, "--action-script", script).returncode == 1
        assert not client.error
        lab.restore(path, ESTABLISHED)
        assert_goes_on(lab, "server")


def die_at(request: int, *words: object) -> None:
    """Run an engine that is killed when it has sent request number REQUEST to the guard."""
    command = [sys.executable, str(PROGRAMS / "dying_guarded.py"), str(request), *map(str, words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("asked", [LOCK, HOLD, TAKE, LET], ids=["lock", "hold", "take", "let"])
def test_an_engine_that_is_killed_leaves_the_connection_alone(lab: Lab, asked: int) -> None:
    with connected(lab, "127.0.0.1") as (pid, _client):
        for number in range(4 if asked == TAKE else 2):
            left = ("--leave-running", "--leave-stopped")[number % 2]
            die_at(asked, "dump", "--tree", pid, "--images-dir", lab.images(f"{asked}{number}"), left, ESTABLISHED)
            assert_goes_on(lab, "server")
        until(lambda: "stillframe-" not in tables(), "a lock outlives its engine")


def test_an_engine_that_is_killed_when_the_dump_is_done_loses_no_connection(lab: Lab) -> None:
    with connected(lab, "127.0.0.1") as (pid, _client):
        path = lab.images("last")
        die_at(KEEP, "dump", "--tree", pid, "--images-dir", path, ESTABLISHED)
        until(lambda: state(pid) == "Z", "the guard does not end the tree")
        lab.reap()
        lab.restore(path, ESTABLISHED)
        assert_goes_on(lab, "server")


def test_closing_states_and_options(lab: Lab) -> None:
    pid = lab.spawn([sys.executable, str(PROGRAMS / "closing.py"), str(lab.folder)]).pid
    until((lab.folder / "ready").exists, "the program does not start")
    lab.dump(pid, "first", "--leave-running", ESTABLISHED)
    path = lab.dump(pid, "last", ESTABLISHED)
    lab.reap()
    lab.restore(path, ESTABLISHED)
    os.kill(pid, signal.SIGUSR1)
    until((lab.folder / "result").exists, "the program does not answer")
    assert (lab.folder / "result").read_text() == "ok"


def test_a_closing_program_is_not_changed_by_a_dump(lab: Lab) -> None:
    pid = lab.spawn([sys.executable, str(PROGRAMS / "closing.py"), str(lab.folder)]).pid
    until((lab.folder / "ready").exists, "the program does not start")
    lab.dump(pid, "first", "--leave-running", ESTABLISHED)
    os.kill(pid, signal.SIGUSR1)
    until((lab.folder / "result").exists, "the program does not answer")
    assert (lab.folder / "result").read_text() == "ok"


LISTENING = """
import socket, sys
s = socket.create_server(("127.0.0.1", 0))
with open(sys.argv[1], "w") as file:
    print(s.getsockname()[1], file=file)
sys.stdin.read()
"""


def test_connections_not_accepted_are_refused_unless_they_may_go(lab: Lab) -> None:
    stdin, keep = os.pipe()
    pid = lab.spawn([sys.executable, "-c", LISTENING, str(lab.folder / "port")], stdin=stdin).pid
    os.close(stdin)
    until(lambda: (lab.folder / "port").exists() and (lab.folder / "port").read_text().endswith("\n"), "nothing listens")
    with socket.create_connection(("127.0.0.1", int((lab.folder / "port").read_text()))):
        refused = lab.engine("dump", "--tree", pid, "--images-dir", lab.images("refused"), "--leave-running")
        assert refused.returncode == 1 and "skip_in_flight" in refused.stderr
        lab.dump(pid, "let go", "--leave-running", "--skip-in-flight")
    os.close(keep)


def test_without_the_option_connections_are_refused(lab: Lab) -> None:
    with connected(lab, "127.0.0.1") as (pid, _client):
        refused = lab.engine("dump", "--tree", pid, "--images-dir", lab.images("refused"), "--leave-running")
        assert refused.returncode == 1 and "carry it with tcp_established" in refused.stderr
        path = lab.dump(pid, "carried", ESTABLISHED)
        lab.reap()
        refused = lab.engine("restore", "--images-dir", path, "--restore-detached")
        assert refused.returncode == 1 and "tcp_established" in refused.stderr
        lab.restore(path, ESTABLISHED)
        assert_goes_on(lab, "server")
    assert children() - lab.before
