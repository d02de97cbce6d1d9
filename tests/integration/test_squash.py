# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A squashed dump restores, and a process tracked since it is dumped incrementally on top of it."""

from __future__ import annotations

import json
from pathlib import Path

from victim import Lab


def test_dumps_go_on_on_top_of_a_squashed_one(lab: Lab) -> None:
    victim = lab.start("writer")
    lab.dump(victim.pid, "1", "--track-mem", "--leave-running")
    second = lab.dump(victim.pid, "2", "--track-mem", "--leave-running", "--prev-images-dir=../1")
    lab.run("squash", "--images-dir", second)
    assert sorted(path.name for path in second.parent.iterdir()) == ["2"]
    third = lab.images("3")
    said = lab.run("dump", "--tree", victim.pid, "--images-dir", third, "--prev-images-dir=../2")
    assert "compared" not in said
    manifest = json.loads(Path(third, "stillframe.json").read_text())
    assert manifest["tracker"] != "compare" and manifest["parent_id"] == json.loads(Path(second, "stillframe.json").read_text())["id"]
    for images in (third, second):
        lab.reap()
        lab.restore(images)
        assert victim.ask() == "ok"
    lab.end(victim.pid)
    assert "0 faults" in lab.engine("verify", "--images-dir", third).stdout
