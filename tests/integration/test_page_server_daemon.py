# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The page server that a module leaves behind: when the module ends, Ansible removes the files that it was loaded from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from victim import PATIENCE, ROOT, Lab, children

STARTER = """
import os, sys
from _engine import page_server_daemon
from _engine.options import ReceiveOptions

class Removed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "_engine":
            raise ModuleNotFoundError(name)

def fork(fork=os.fork):
    pid = fork()
    if not pid:
        sys.meta_path.insert(0, Removed())
    return pid

os.fork = fork
images, parent, log = sys.argv[1:]
print(page_server_daemon.start(ReceiveOptions(images, parent or None, bool(parent), None, 120.0), "127.0.0.1", 0, log).port)
"""


@pytest.mark.parametrize("log", ["log", ""])
def test_it_needs_nothing_of_what_it_was_loaded_from(lab: Lab, log: str) -> None:
    victim = lab.start("writer")
    others = children()
    for number, parent in ((1, ""), (2, "../1")):
        there, here = lab.images(f"there/{number}"), lab.images(f"here/{number}")
        told = str(lab.folder / log) if log else "/dev/null"
        command = [sys.executable, "-c", STARTER, str(there), parent, told]
        environment = {"PYTHONPATH": str(ROOT / "plugins" / "module_utils")}
        port = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()
        (server,) = children() - others
        options = ["--page-server", "--port", port, "--track-mem", *(("--prev-images-dir", parent) if parent else ())]
        lab.run("pre-dump", "--tree", victim.pid, "--images-dir", here, *options)
        assert os.waitpid(server, 0) == (server, 0), Path(told).read_text()
        assert not log or "Received dump" in Path(told).read_text()
    assert victim.ask() == "ok"
