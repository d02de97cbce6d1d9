# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""--restore-sibling: the restored root is a child of who called the restore."""

from __future__ import annotations

import shlex
import subprocess

from _engine.kernel import procfs
from victim import Lab, engine, sentence


def test_a_restored_root_can_be_a_sibling(lab: Lab) -> None:
    victim = lab.start("memory")
    images = lab.dump(victim.pid, "1")
    lab.reap()
    assert "without --restore-detached" in sentence(lab.engine("restore", "--images-dir", images, "--restore-sibling"))
    command = shlex.join(engine("restore", "--images-dir", images, "--restore-sibling", "--restore-detached"))
    shell = subprocess.Popen(["sh", "-c", f"{command} && echo done && read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert shell.stdin and shell.stdout
    assert shell.stdout.readline() == b"done\n"
    assert procfs.stat(victim.pid).ppid == shell.pid
    assert victim.ask() == "ok"
    shell.communicate()
    lab.reap()
