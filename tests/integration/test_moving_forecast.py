# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of a move beforehand is what it comes to, and nothing is touched for it."""

from __future__ import annotations

import os
from pathlib import Path

import look
import moving
from victim import Lab, sentence

_KEEN = {"max_downtime": 0.000001}
"""The rounds end when they no longer become smaller."""


def traces(pid: int) -> tuple[list[str], bool, list[str]]:
    """Return what a tracker would leave of itself in PID, and in what is remembered of it."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    registered = any("uw" in line.split() for line in Path(f"/proc/{pid}/smaps").read_text().splitlines() if line.startswith("VmFlags"))
    known = sorted(path.name for path in Path("/run/stillframe").glob(f"*-{pid}-*"))
    return [link for link in links if link == look.TRACKER], registered, known


def test_a_forecast_comes_true(lab: Lab) -> None:
    victim = lab.start("writer")
    there = moving.host(lab)
    try:
        told = moving.plan(victim, there, options=_KEEN)
        assert told["asked"] and told["pids"] == [victim.pid], told
        assert traces(victim.pid) == ([], False, [])
        assert victim.ask() == "ok" and not there.tree()
        moved = moving.move(victim, there, options=_KEEN)
        predicted, stop = told["predicted"], moved["stop"]
        assert abs(predicted["rounds"] - len(moved["rounds"])) <= 3, (told, moved)
        sent = sum(one["bytes"] for one in moved["rounds"]) + stop["bytes"]
        assert sent / 4 < predicted["bytes"] < sent * 4, (told, moved)
        stood = sum(stop[part] for part in ("freeze", "scan", "copy", "send", "apply", "resume"))
        assert stood / 40 < predicted["downtime"] < stood * 10, (told, moved)
        assert predicted["dirty_rate"] > 1000 and predicted["rate"] > 0
        assert there.result()["pids"] == [victim.pid]
    finally:
        there.end()


def test_all_that_stands_in_the_way_is_told_at_once(lab: Lab) -> None:
    here = lab.start("uncarriable")
    hide = f'mount --bind /dev/null {lab.program("uncarriable")} && exec "$@"'
    there = moving.host(lab, prefix=["unshare", "--mount", "sh", "-c", hide, "sh"])
    try:
        told = moving.plan(here, there)
        assert told["kind"] == "UnsupportedError" and "io_uring" in told["error"], told
        assert f"{lab.program('uncarriable')}: it is missing on the destination" in told["error"], told
        assert not there.ended.exists()
    finally:
        there.end()


def test_a_destination_that_nobody_listens_on(lab: Lab) -> None:
    victim = lab.start("writer")
    told = lab.run("migrate", "--dry-run", "--tree", victim.pid, "--port", 1)
    assert "the destination was not asked, since no receiver listens there" in told
    done = lab.engine("migrate", "--dry-run", "--tree", victim.pid)
    assert done.returncode == 0 and "(the destination was not asked). Expected:" in done.stdout, done
    assert sentence(lab.engine("migrate", "--tree", victim.pid)).startswith("migrate needs the port")
    assert traces(victim.pid) == ([], False, [])
    assert victim.ask() == "ok"
