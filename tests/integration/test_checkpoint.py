# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Dump after dump of a service: which are full, what restores, and what is left when a run is killed or meets another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from victim import Lab, Victim, engine


class Service:
    """A victim, and the root of its dumps."""

    def __init__(self, lab: Lab, name: str = "victim") -> None:
        self.lab = lab
        self.victim = lab.start("writer", name=name)
        self.root = lab.folder / "root"
        self.root.mkdir(exist_ok=True)

    def words(self, *options: str) -> Sequence[object]:
        return ("checkpoint", "--tree", self.victim.pid, "--images-dir", self.root, *options)

    def checkpoint(self, *options: str) -> str:
        """Take the next dump and return what the program says."""
        done = self.lab.engine(*self.words(*options))
        assert done.returncode == 0, done
        return done.stdout

    def manifest(self, name: str = "latest") -> dict[str, object]:
        return dict(json.loads((self.root / name / "stillframe.json").read_text()))

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.root) if not name.startswith("."))

    def restores(self, name: str, victim: Victim | None = None) -> None:
        """End what runs, restore a dump, and let it check itself."""
        self.lab.reap()
        self.lab.restore(self.root / name, "--track-mem")
        assert (victim or self.victim).ask() == "ok"


def test_a_chain_grows_is_cut_and_restores(lab: Lab) -> None:
    service = Service(lab)
    assert "1: a full dump, since there is no dump yet" in service.checkpoint("--full-every=3")
    assert "would make an incremental dump" in service.checkpoint("--full-every=3", "--dry-run")
    for number in ("2", "3"):
        assert f"{number}: an incremental dump" in service.checkpoint("--full-every=3")
    assert service.manifest()["tracker"] != "compare"
    assert "4: a full dump, since the chain of" in service.checkpoint("--full-every=3")
    assert service.names() == ["1", "2", "3", "4", "latest"]
    for name in ("2", "latest"):
        service.restores(name)
    said = service.checkpoint("--keep-last=2")
    assert "5: an incremental dump" in said, "a service that was restored goes on where it came from"
    assert service.names() == ["4", "5", "latest"]
    service.restores("4")
    assert "6: an incremental dump, since the one before, " + str(service.root / "4") in service.checkpoint()
    assert os.readlink(service.root / "6" / "parent") == "../4"
    assert "0 faults" in lab.engine("verify", "--images-dir", service.root).stdout


def test_a_restart_begins_a_new_chain(lab: Lab) -> None:
    first = Service(lab)
    first.checkpoint()
    first.checkpoint()
    lab.reap()
    second = Service(lab, "again")
    assert "3: a full dump, since the service was restarted" in second.checkpoint("--keep-last=2")
    assert first.names() == ["2", "3", "latest"]
    second.restores("latest")
    first.restores("2")


def test_what_cannot_be_built_on_is_not(lab: Lab) -> None:
    service = Service(lab)
    service.checkpoint()
    assert service.victim.ask("close") == "ok", "programs close all descriptors: the tracker's too"
    assert "2: a full dump, since no tracker counts" in service.checkpoint()
    service.checkpoint()
    shutil.rmtree(service.root / "2")
    assert "4: a full dump, since nothing can be made on top" in service.checkpoint()
    pages = service.root / "4" / "pages-1.img"
    with open(pages, "r+b") as file:
        file.write(b"\xff")
    said = service.checkpoint("--keep-last=9")
    assert "5: a full dump, since nothing can be made on top" in said and str(pages) in said
    service.restores("latest")


def test_two_runs_at_once(lab: Lab) -> None:
    service = Service(lab)
    service.checkpoint()
    gate = lab.folder / "gate"
    os.mkfifo(gate)
    script = lab.folder / "script"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || {{ echo "$CRTOOLS_IMAGE_DIR" >{gate}; read go <{gate}; }}\n')
    script.chmod(0o700)
    running = subprocess.Popen(engine(*service.words("--action-script", str(script))), stdin=subprocess.DEVNULL)
    assert gate.read_text() == f"{service.root}/2\n"
    refused = lab.engine(*service.words())
    assert refused.returncode == 1 and "another run makes a dump in" in refused.stderr
    gate.write_text("go on\n")
    assert running.wait() == 0
    assert service.names() == ["1", "2", "latest"]


def test_a_run_that_is_killed_leaves_nothing_for_long(lab: Lab) -> None:
    service = Service(lab)
    service.checkpoint()
    gate = lab.folder / "gate"
    os.mkfifo(gate)
    script = lab.folder / "script"
    script.write_text(f'#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ] || {{ echo >{gate}; read line <{gate}; }}\n')
    script.chmod(0o700)
    running = subprocess.Popen(engine(*service.words("--action-script", str(script))), stdin=subprocess.DEVNULL)
    assert gate.read_text() == "\n", "all is written, nothing is committed"
    running.send_signal(signal.SIGKILL)
    running.wait()
    gate.write_text("\n")
    assert (service.root / "2" / "pstree.img").exists() and os.readlink(service.root / "latest") == "1"
    said = service.checkpoint()
    assert f"removed {service.root}/2, which was left unfinished" in said
    assert "2: a full dump, since no tracker counts" in said, "tracking was reset for a dump that is none"
    assert service.names() == ["1", "2", "latest"]
    service.restores("latest")


def test_a_dump_that_is_refused_leaves_nothing(lab: Lab) -> None:
    service = Service(lab)
    service.checkpoint()
    for words in (("--prev-images-dir", "1"), ("--force",), ("--keep-within", "never")):
        assert lab.engine(*service.words(*words)).returncode == 1
    (lab.folder / "no").write_text("#!/bin/sh\nexit 1\n")
    (lab.folder / "no").chmod(0o700)
    assert lab.engine(*service.words("--action-script", str(lab.folder / "no"))).returncode
    assert service.names() == ["1", "latest"] and service.victim.ask() == "ok"
    assert "incremental" in service.checkpoint()
