# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules, in real playbooks on this machine: check mode, the real thing, the same again, undone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PLAYBOOKS = sorted((Path(__file__).parent / "playbooks").glob("*.yml"))
CORES = {"newest": Path(sys.executable).parent, "2.17": ROOT / ".nox" / "sanity-2-17" / "bin"}
LIMIT = 240
"""Seconds after which a playbook hangs."""


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a search path with this checkout as the collection."""
    path = tmp_path_factory.mktemp("collections")
    (path / "ansible_collections/stillframe").mkdir(parents=True)
    (path / "ansible_collections/stillframe/checkpoint").symlink_to(ROOT)
    return path


@pytest.fixture(params=list(CORES))
def ansible_playbook(request: pytest.FixtureRequest) -> Path:
    """Return the ansible-playbook of the newest ansible-core, and of the oldest that is supported."""
    program = CORES[request.param] / "ansible-playbook"
    if not program.exists():
        pytest.skip(f"no ansible-core ({request.param}) here: make venv brings the newest, make lint the oldest")
    return program


@pytest.mark.skipif(os.geteuid() != 0, reason="dumps and restores need root")
@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_playbook(playbook: Path, ansible_playbook: Path, collections: Path, tmp_path: Path) -> None:
    """Run PLAYBOOK, whose tasks assert what they expect, with processes that do not outlive it."""
    variables = {"folder": tmp_path, "keeper": ROOT / "tests/programs/keeper.py", "ansible_python_interpreter": sys.executable}
    extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collections), "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_NOCOLOR": "1"}
    run = subprocess.run(
        [sys.executable, ROOT / "tests/integration/reaper.py", ansible_playbook, playbook, *extra],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    shutil.rmtree(tmp_path, ignore_errors=True)
    assert run.returncode == 0, run.stdout
