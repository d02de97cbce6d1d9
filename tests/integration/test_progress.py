# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a verb is, while it works: the engine counts all that it moves, and the action plugins tell it while a module runs."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import moving
import pytest
from _engine.dump import dump
from _engine.migrate import migrate
from _engine.options import DumpOptions, MigrateOptions, RestoreOptions
from _engine.pre_dump import pre_dump
from _engine.progress import Progress, Reading
from _engine.restore import restore
from _engine.verify import verify
from process import python, running
from test_playbooks import CORES
from victim import Lab

ROOT = Path(__file__).parent.parent.parent
LOG = logging.getLogger(__name__)
MIB = 1 << 20
MEMORY = 24 * MIB
HOLDER = python(f"import os; memory = os.urandom({MEMORY})")
PATIENCE = 120
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="dumps and restores need root")

WAIT = """#!/bin/sh
cd "$(dirname "$0")" && [ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
until [ -e seen ]; do sleep 0.2; done
"""
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - stillframe.checkpoint.dump: &dump
        tree: "{{ pid }}"
        images_dir: "{{ folder }}/1"
        leave_running: true
        action_script: ["{{ folder }}/wait"]
      register: told
    - stillframe.checkpoint.dump: {<<: *dump, images_dir: "{{ folder }}/2", action_script: []}
      check_mode: true
      register: planned
    - stillframe.checkpoint.dump: {<<: *dump, images_dir: "{{ folder }}/3", action_script: []}
      async: 100
      poll: 1
      register: beside
    - stillframe.checkpoint.dump: {<<: *dump, images_dir: "{{ folder }}/no/4", action_script: []}
      register: failed
      failed_when: false
    - ansible.builtin.copy:
        content: "{{ {'told': told, 'planned': planned, 'beside': beside, 'failed': failed} | to_json }}"
        dest: "{{ folder }}/results"
        mode: "0600"
"""


class Told:
    """Notes what is told, all of it."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.progress = Progress(self.readings.append, every=0)

    def by_stage(self) -> dict[str, Reading]:
        """Return the last reading of each stage."""
        for one, other in zip(self.readings, self.readings[1:]):
            assert one.stage != other.stage or one.done <= other.done
        return {one.stage: one for one in self.readings}


@pytest.fixture
def holder() -> Iterator[int]:
    """Return a process with memory."""
    with running(*HOLDER) as process:
        yield process.pid


@pytest.mark.parametrize("freeze", ["hold", "snapshot"])
def test_a_dump(holder: int, tmp_path: Path, freeze: str) -> None:
    told = Told()
    result = dump(DumpOptions(holder, str(tmp_path), leave_running=True, freeze=freeze, progress=told.progress), LOG)
    last = told.by_stage()[""]
    assert last.done == last.total == result.pages_written * 4096 > MEMORY


def test_a_pre_dump_and_the_verification_of_it(holder: int, tmp_path: Path) -> None:
    told = Told()
    result = pre_dump(DumpOptions(holder, str(tmp_path), progress=told.progress), LOG)
    last = told.by_stage()[""]
    assert last.done == last.total == result.pages_written * 4096 > MEMORY
    told = Told()
    assert verify(str(tmp_path), told.progress).sound
    last = told.by_stage()[str(tmp_path)]
    assert last.done == last.total == result.pages_written * 4096


def test_a_restore(lab: Lab) -> None:
    victim, told = lab.start("writer"), Told()
    images = lab.dump(victim.pid, "1")
    lab.reap()
    result = restore(RestoreOptions(str(images), progress=told.progress), LOG)
    last = told.by_stage()[""]
    assert last.total >= last.done == result.pages_restored * 4096 > 0
    assert victim.ask() == "ok"
    lab.end(victim.pid)


def test_both_ends_of_a_move(lab: Lab) -> None:
    victim, told, there = lab.start("writer"), Told(), moving.host(lab)

    def connect(timeout: float) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(there.socket))
        return made

    try:
        result = migrate(MigrateOptions(victim.pid, max_downtime=0, max_rounds=2, progress=told.progress), connect, LOG)
        assert there.result()["pid"]
        rounds = {f"round {one.number}": one.pages * 4096 for one in result.rounds}
        assert {stage: one.done for stage, one in told.by_stage().items()} == rounds  # and nothing of the stop
        lines = [line.partition(":progress ")[2] for line in (lab.folder / "host.log").read_text().splitlines()]
        received = [Reading(**json.loads(line)) for line in lines if line]
        assert {one.stage: (one.done, one.total) for one in received} == {stage: (size, 0) for stage, size in rounds.items()}
    finally:
        there.end()


@pytest.mark.parametrize("core", list(CORES))
def test_the_person_at_the_terminal_is_told(core: str, holder: int, tmp_path: Path) -> None:
    """The dump goes on until the person has seen how far it is; check mode, async tasks and failures are as without an action plugin."""
    program = CORES[core] / "ansible-playbook"
    if not program.exists():
        pytest.skip(f"no ansible-core ({core}) here: make venv brings the newest, make lint the oldest")
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "wait").write_text(WAIT)
    (tmp_path / "wait").chmod(0o700)
    (tmp_path / "ansible_collections/stillframe").mkdir(parents=True)
    (tmp_path / "ansible_collections/stillframe/checkpoint").symlink_to(ROOT)
    variables = json.dumps({"pid": holder, "folder": str(tmp_path), "ansible_python_interpreter": sys.executable})
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_NOCOLOR": "1"}
    command = [program, "-v", tmp_path / "play.yml", "-e", variables]
    lines = []
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        assert run.stdout
        for line in run.stdout:
            lines.append(line)
            if line.startswith(f"[localhost] dump {holder}: "):
                (tmp_path / "seen").touch()
        assert run.wait(PATIENCE) == 0, "".join(lines)
    shown = [line for line in lines if line.startswith("[localhost]")]
    assert len(shown) == 1 and " MiB/s" in shown[0], "".join(lines)
    results = json.loads((tmp_path / "results").read_text())
    told, beside = results["told"], results["beside"]
    assert told["left"] == "running" and told["pages_written"] * 4096 > MEMORY
    assert results["planned"]["dumpable"] and not (tmp_path / "2").exists()
    assert "no/4" in results["failed"]["msg"]
    assert set(told) <= set(beside)
    assert not [name for name in os.listdir("/run/stillframe") if name.startswith("progress-")]
