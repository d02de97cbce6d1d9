# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""An action script at stage post-dump finds the tree as it was dumped: it stands still, also when it is to run on."""

from __future__ import annotations

from pathlib import Path

from victim import Lab

SCRIPT = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
for thread in /proc/$CRTOOLS_INIT_PID/task/*; do
    sed -n 's/^State:[[:space:]]*//p' "$thread/status"
done > "$CRTOOLS_IMAGE_DIR/../states"
"""


def test_the_tree_stands_still_meanwhile(lab: Lab) -> None:
    victim = lab.start("writer")
    script = lab.folder / "script"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    images = lab.dump(victim.pid, "1", "--leave-running", "--track-mem", "--action-script", str(script))
    states = (Path(images).parent / "states").read_text().splitlines()
    assert states and set(states) == {"t (tracing stop)"}
    assert victim.ask() == "ok"
    last = lab.dump(victim.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    lab.restore(last)
    assert victim.ask() == "ok"
    lab.end(victim.pid)
