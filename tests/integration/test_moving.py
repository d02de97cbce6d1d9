# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A tree moves to another host while it runs: the same one goes on there, and nothing of it stays here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _engine.transfer import compression
from _engine.transfer.tls import make_certificate

import look
import moving
from victim import PATIENCE, ROOT, Lab, Victim, until

_KEEN = {"max_downtime": 0.000001}
"""More rounds than one."""
_ZEROS = """
import mmap, pathlib, signal, sys
area = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(area), mmap.PAGESIZE):
    area[at] = 1
    area[at] = 0
pathlib.Path(sys.argv[1]).touch()
signal.pause()
"""


@pytest.fixture
def there(lab: Lab) -> Iterator[moving.Host]:
    """Another host, with a receiver that waits."""
    host = moving.host(lab, options={"decision_timeout": 1})
    try:
        yield host
    finally:
        host.end()


def runs(pid: int) -> bool:
    """Tell whether PID is there and neither a zombie nor stopped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state in "RSD"


def prune_elsewhere() -> None:
    """Forget what can be forgotten of decisions, in a PID namespace that has none of these processes but the same /run."""
    code = "from _engine.transfer import decision, journal; decision.prune('source'); decision.prune('destination'); journal.tidy()"
    unshared = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", code]
    subprocess.run(unshared, check=True, env={"PYTHONPATH": str(ROOT / "plugins" / "module_utils")}, timeout=PATIENCE)


def assert_moved(victim: Victim, there: moving.Host) -> Victim:
    """Check that VICTIM is there and not here; return it as it is there."""
    assert not runs(victim.pid)
    arrived = there.victim(victim)
    assert arrived.ask() == "ok"
    return arrived


def assert_stayed(victim: Victim, there: moving.Host) -> None:
    """Check that VICTIM goes on here, that nothing holds it, and that nothing of it is there."""
    assert victim.ask() == "ok"
    assert runs(victim.pid)
    assert "TracerPid:\t0" in Path(f"/proc/{victim.pid}/status").read_text()
    assert not there.tree()


def test_a_program_that_writes_on_moves_in_rounds(lab: Lab, there: moving.Host) -> None:
    victim = lab.start("writer")
    moved = moving.move(victim, there, options=_KEEN)
    assert len(moved["rounds"]) >= 3 and moved["rounds"][0]["pages"] >= 2048, moved
    assert there.result()["pids"] == [victim.pid]
    assert assert_moved(victim, there).ask() == "ok"


@pytest.mark.parametrize("event", ["drop", "move", "fork"])
def test_what_befalls_memory_before_a_move(lab: Lab, there: moving.Host, event: str) -> None:
    victim = lab.start("writer")
    assert victim.ask(event) == ("ready" if event == "exec" else "ok")
    moving.move(victim, there, options=_KEEN)
    arrived = assert_moved(victim, there)
    if event == "fork":
        assert arrived.ask("end child") == "ok"


@pytest.mark.parametrize("event", ["fork", "end child"])
def test_a_tree_that_changes_between_the_rounds_and_the_stop(lab: Lab, there: moving.Host, event: str) -> None:
    victim = lab.start("writer")
    if event == "end child":
        assert victim.ask("fork") == "ok"
    ask = f"exec 3<>{victim.directory}/ask 4<>{victim.directory}/answer; echo {event} >&3; read answer <&4; test $answer = ok"
    moved = moving.move(victim, there, hooks={"pre-freeze": ask}, options=_KEEN)
    assert len(moved["pids"]) == len(there.tree()) == (2 if event == "fork" else 1), moved
    arrived = assert_moved(victim, there)
    if event == "fork":
        assert arrived.ask("end child") == "ok"


@pytest.mark.skipif(not compression.available(), reason="no zstandard here")
@pytest.mark.parametrize("how", ["zstd", "auto"])
def test_memory_is_compressed_on_its_way(lab: Lab, there: moving.Host, how: str) -> None:
    victim = lab.start("writer")
    moved = moving.move(victim, there, options={**_KEEN, "compress": how})
    first = moved["rounds"][0]
    assert first["pages"] >= 2048 and (how == "auto" or first["bytes"] < first["pages"] * 4096 * 0.9), moved
    assert_moved(victim, there)


def test_pages_of_zeros_cost_next_to_nothing(lab: Lab, there: moving.Host) -> None:
    victim = Victim(lab.folder, lab.spawn([sys.executable, "-c", _ZEROS, str(lab.folder / "ready")]).pid)
    until((lab.folder / "ready").exists, "the program does not start")
    moved = moving.move(victim, there)
    assert moved["rounds"][0]["pages"] >= 16384 and moved["rounds"][0]["bytes"] < 32 << 20, moved
    mapped = there.processes()[victim.pid]
    areas = [line.split()[0].split("-") for line in Path(f"/proc/{mapped}/maps").read_text().splitlines()]
    start, end = max(((int(one, 16), int(other, 16)) for one, other in areas), key=lambda area: area[1] - area[0])
    with open(f"/proc/{mapped}/mem", "rb") as memory:
        memory.seek(start)
        assert end - start >= 64 << 20 and not any(memory.read(64 << 20))


@pytest.mark.parametrize("event", ["", "grow", "more"])
def test_shared_memory_moves_in_rounds(lab: Lab, there: moving.Host, event: str) -> None:
    victim = lab.start("shared_writer")
    ask = f"exec 3<>{victim.directory}/ask 4<>{victim.directory}/answer; echo {event} >&3; read answer <&4; test $answer = ok"
    hooks = {"pre-freeze": ask} if event else {}
    moved = moving.move(victim, there, hooks=hooks, options=_KEEN)
    assert moved["rounds"][0]["pages"] >= 3072 and moved["stop"]["pages"] < 1024, moved
    assert assert_moved(victim, there).ask() == "ok"


def test_system_v_shared_memory_moves_to_a_host_with_its_own(lab: Lab) -> None:
    victim = lab.start("sysv")
    there = moving.host(lab, prefix=["unshare", "--ipc"])
    try:
        moved = moving.move(victim, there)
        assert "stop" in moved, moved
        assert_moved(victim, there)
    finally:
        there.end()


@pytest.mark.parametrize("program", ["memory", "threads", "shared_memory"])
def test_what_moves_is_the_same(lab: Lab, there: moving.Host, program: str) -> None:
    victim = lab.start(program, "lenient", rseq=True) if program == "threads" else lab.start(program)
    victim.await_rest(spinning=program == "threads")
    before = look.areas(victim.pid), look.descriptors(victim.pid, look.Names())
    content = look.contents(victim.pid) if program == "shared_memory" else {}
    result = moving.move(victim, there, options=_KEEN)
    assert "stop" in result, result
    arrived = there.victim(victim)
    arrived.await_rest(spinning=program == "threads")
    if content:
        assert look.contents(arrived.pid) == content
    assert (look.areas(arrived.pid), look.descriptors(arrived.pid, look.Names())) == before
    assert_moved(victim, there)


@pytest.mark.parametrize(("what", "frame"), [("kill", "tree"), ("cut", "pages"), ("cut", "round-end"), ("kill", "image"), ("cut", "final")])
def test_a_source_that_fails_before_the_decision(lab: Lab, there: moving.Host, what: str, frame: str) -> None:
    victim = lab.start("writer")
    moved = moving.move(victim, there, fault=f"{what} {frame} after", options=_KEEN)
    assert "stop" not in moved
    assert "error" in there.result()
    assert_stayed(victim, there)
    if what == "cut":
        assert look.TRACKER not in [str(path.readlink()) for path in Path(f"/proc/{victim.pid}/fd").iterdir()]


@pytest.mark.parametrize("fault", ["cut obstacles before", "kill applied before", "kill ready before", "cut ready before"])
def test_a_destination_that_fails_before_the_decision(lab: Lab, fault: str) -> None:
    victim = lab.start("writer")
    there = moving.host(lab, fault=fault, options={"decision_timeout": 1})
    try:
        moved = moving.move(victim, there, options=_KEEN)
        assert "stop" not in moved and moved["kind"] != "InDoubt", moved
        there.result()
        assert_stayed(victim, there)
    finally:
        there.end()


@pytest.mark.parametrize("when", ["commit before", "commit after"])
def test_a_connection_that_is_lost_at_the_decision(lab: Lab, there: moving.Host, when: str) -> None:
    victim = lab.start("writer")
    moved = moving.move(victim, there, fault=f"cut {when}")
    assert "stop" in moved, moved
    assert there.result()["pids"] == [victim.pid]
    assert_moved(victim, there)


def test_a_lost_answer(lab: Lab) -> None:
    victim = lab.start("writer")
    there = moving.host(lab, fault="cut running before")
    try:
        assert "stop" in moving.move(victim, there)
        there.result()
        assert_moved(victim, there)
    finally:
        there.end()


@pytest.mark.parametrize("when", ["commit before", "commit after"])
def test_a_source_that_is_killed_at_the_decision(lab: Lab, when: str) -> None:
    victim = lab.start("writer")
    there = moving.host(lab, options={"decision_timeout": 1})
    try:
        assert moving.move(victim, there, fault=f"kill {when}") == {}
        there.result()
        assert not runs(victim.pid) and Path(f"/proc/{victim.pid}/exe").exists()
        arrived = bool(there.tree())
        assert arrived == (when == "commit after")
        prune_elsewhere()
        assert moving.settle(moving.undecided(victim), there.receive(lab)) == {"runs": arrived}
        if arrived:
            assert_moved(victim, there)
        else:
            assert_stayed(victim, there)
    finally:
        there.end()


@pytest.mark.parametrize("when", ["ready after", "running before"])
def test_a_destination_that_is_killed_at_the_decision(lab: Lab, when: str) -> None:
    victim = lab.start("writer")
    there = moving.host(lab, fault=f"kill {when}")
    try:
        moved = moving.move(victim, there, options={"decision_timeout": 1})
        assert moved["kind"] == "InDoubt", moved
        assert not runs(victim.pid) and Path(f"/proc/{victim.pid}/exe").exists()
        arrived = bool(there.tree())
        assert moving.settle(moving.undecided(victim), there.receive(lab)) == {"runs": arrived}
        if arrived:
            assert_moved(victim, there)
        else:
            assert_stayed(victim, there)
    finally:
        there.end()


def test_a_source_that_does_not_come(lab: Lab) -> None:
    there = moving.host(lab, options={"source_timeout": 0.1})
    try:
        told = there.result()
        assert told["kind"] == "MoveError" and told["error"].startswith("no source has come"), told
    finally:
        there.end()


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
def test_the_command_line_and_tls(lab: Lab) -> None:
    for name in ("source", "destination", "stranger"):
        (lab.folder / name).mkdir()
    here, other, stranger = (make_certificate(str(lab.folder / name)) for name in ("source", "destination", "stranger"))
    victim = lab.start("writer")
    options = ["--tls", f"--tls-cert={other.cert}", f"--tls-key={other.key}", f"--tls-peer-cert={here.cert}"]
    there, line = moving.host_by_command(lab, "receive", *options, "--restore-detached")
    try:
        port = line.split()[-1]
        way = ["--tree", victim.pid, "--port", port, "--tls", f"--tls-peer-fingerprint={other.fingerprint}"]
        refused = lab.engine("migrate", *way, f"--tls-cert={stranger.cert}", f"--tls-key={stranger.key}")
        assert refused.returncode == 1 and victim.ask() == "ok"
        lab.run("migrate", *way, f"--tls-cert={here.cert}", f"--tls-key={here.key}", "--max-downtime=1", "--max-rounds=2")
        until(there.ended.exists, "the receiver does not end")
        assert_moved(victim, there)
    finally:
        there.end()
