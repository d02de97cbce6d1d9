# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Our core images are those that CRIU writes of the same process, field by field."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from _engine.images.image import ImagesDir
from _engine.resources import core
from _engine.tracee.freeze import FrozenTree

CRIU = os.environ.get("STILLFRAME_CRIU", "")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it dumps a process"),
    pytest.mark.skipif(not CRIU, reason="no CRIU to compare with: set STILLFRAME_CRIU to the path of one that runs on this kernel"),
]
PROGRAM = Path(__file__).parents[1] / "programs" / "task_state.c"
OWN = "stillframe"
"""The field that CRIU does not have."""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[int]:
    program = tmp_path / "task_state"
    subprocess.run(["gcc", "-O1", "-Wno-nonnull", "-o", str(program), str(PROGRAM), "-lpthread"], check=True)
    with open(os.devnull, "r+b") as null, open(tmp_path / "out", "w+b") as out:
        process = subprocess.Popen([str(program), "root"], stdin=null, stdout=out, stderr=null, start_new_session=True)
    try:
        tasks = Path(f"/proc/{process.pid}/task")
        while not (len(list(tasks.iterdir())) == 2 and all((t / "syscall").read_text().startswith("34 ") for t in tasks.iterdir())):
            assert process.poll() is None
        yield process.pid
    finally:
        process.kill()
        process.wait(timeout=10)


@pytest.fixture
def dumps(victim: int, tmp_path: Path) -> Dict[str, ImagesDir]:
    """The images of the same process, by us and then by CRIU."""
    found = {}
    for name in ("ours", "criu"):
        (tmp_path / name).mkdir()
        found[name] = ImagesDir(str(tmp_path / name))
    with FrozenTree(victim, 10) as tree:
        state = core.collect(victim, tree.tasks[0].threads)
    for name, entry in core.images(state, core.tables("ignore")):
        found["ours"].write(name, [entry])
    command = [CRIU, "dump", "--tree", str(victim), "--images-dir", found["criu"].path, "--leave-running", "-v4", "-o", "dump.log"]
    status = subprocess.run(command, check=False).returncode
    assert status == 0, Path(found["criu"].path, "dump.log").read_text()[-2000:]
    return found


def fields(message: Any) -> Any:
    """Return MESSAGE as nested lists and dictionaries of what is set in it."""
    if not hasattr(message, "ListFields"):
        return message
    return {field.name: value_of(value) for field, value in message.ListFields() if field.name != OWN}


def value_of(value: Any) -> Any:
    many = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return [fields(one) for one in value] if many else fields(value)


def without_time(core_fields: Dict[str, Any]) -> Dict[str, Any]:
    """Return the fields of a core without the time that is left to timers, and without what CRIU means otherwise.

    It leaves the number of the last system call in orig_ax although the call is to be made again; ours says that none is under way.
    It adds a shadow stack, all zeros, wherever the processor has them, whether the kernel has them or not.
    """
    core_fields["thread_info"]["gpregs"].pop("orig_ax")
    if not any(core_fields["thread_info"]["fpregs"]["xsave"].get("cet", {}).values()):
        core_fields["thread_info"]["fpregs"]["xsave"].pop("cet", None)
    for timer in core_fields.get("tc", {}).get("timers", {}).get("posix", []):
        timer.update(vsec=timer["vsec"] // 100, vnsec=0)
    for name in ("real", "prof"):
        core_fields.get("tc", {}).get("timers", {}).get(name, {}).update(vsec=0, vusec=0)
    posix = core_fields.get("tc", {}).get("timers", {}).get("posix", [])
    posix.sort(key=lambda timer: timer["it_id"])
    return core_fields


def with_criu_personality(core_fields: Dict[str, Any]) -> Dict[str, Any]:
    """Return the fields with the personality as CRIU misreads it: its hexadecimal digits as decimal ones."""
    if "tc" in core_fields:
        core_fields["tc"]["personality"] = int(f"{core_fields['tc']['personality']:x}")
    return core_fields


def test_images_are_those_of_criu(dumps: Dict[str, ImagesDir]) -> None:
    names = [name for name in dumps["criu"].names() if name.startswith("core-")]
    assert [name for name in dumps["ours"].names() if name.startswith("core-")] == names and len(names) == 2
    for name in names:
        ours, theirs = (without_time(fields(dumps[side].read(name)[0])) for side in ("ours", "criu"))
        assert with_criu_personality(ours) == theirs


def test_crit_shows_them(dumps: Dict[str, ImagesDir]) -> None:
    for name in dumps["ours"].names():
        crit = Path(CRIU).with_name("crit")
        shown = {side: json.loads(subprocess.check_output([crit, "show", dumps[side].file(name)])) for side in ("ours", "criu")}
        assert shown["ours"]["magic"] == shown["criu"]["magic"] == "CORE"
        assert shown["ours"]["entries"][0].keys() == shown["criu"]["entries"][0].keys()
