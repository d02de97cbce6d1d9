# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Under systemd: a service that a dump has ended comes back as its unit (docs/limits.md), and units that take dumps."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jinja2
import pytest

from _engine.kernel import cgroups
from test_cgroups import membership, removed
from victim import PATIENCE, PROGRAMS, ROOT, Lab, engine, until

SYSTEMD = "/usr/lib/systemd/systemd"
SYSTEMS_OWN = ("name=systemd", cgroups.VERSION_2)
"""The hierarchies that systemd has its units in."""
UNIT = """
[Service]
Type=forking
PIDFile={folder}/pid
ExecStart={folder}/start
"""
START = """#!/bin/sh
exec 2>>{folder}/errors
[ ! -e {folder}/images/1/inventory.img ] || exec {restore}
setsid sleep 1000 </dev/null >/dev/null 2>&1 &
echo $! >{folder}/pid
"""
SLEEPER = """
[Service]
ExecStart=/usr/bin/sleep 1000
StandardOutput=null
StandardError=null
"""
DUMPS = "stillframe-checkpoint-it"
Ask = Callable[..., str]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not (os.path.exists(SYSTEMD) and shutil.which("systemctl")), reason="there is no systemd"),
]


@pytest.fixture
def systemctl(lab: Lab) -> Iterator[Ask]:
    """The systemctl of a systemd of our own, with one unit, service."""
    units = lab.folder / ".config" / "systemd" / "user"
    units.mkdir(parents=True)
    (units / "service.service").write_text(UNIT.format(folder=lab.folder))
    (lab.folder / "run").mkdir()
    environment = {**os.environ, "HOME": str(lab.folder), "XDG_RUNTIME_DIR": str(lab.folder / "run")}
    directories = own_groups()
    command = ["unshare", "--mount", str(PROGRAMS / "own_systemd.sh"), *map(str, directories)]
    with open(lab.folder / "log", "wb") as log:
        systemd = lab.spawn(command, stdout=log, stderr=log, env=environment)

    def ask(*words: str) -> str:
        done = subprocess.run(["systemctl", "--user", *words], env=environment, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        until(lambda: ask("is-active", "basic.target") == "active" or systemd.poll() is not None, "systemd does not start")
        if systemd.poll() is not None:
            pytest.skip(f"systemd does not run here: {(lab.folder / 'log').read_text()[-300:]}")
        yield ask
        ask("exit")
        systemd.wait(timeout=PATIENCE)
    finally:
        lab.reap()
        for top in directories:
            for path in (*sorted((one for one in top.rglob("*") if one.is_dir()), reverse=True), top):
                until(lambda path=path: removed(path), f"{path} is in use")  # type: ignore[misc]


def own_groups() -> list[Path]:
    """Return new cgroups below ours, in the hierarchies that systemd uses."""
    mounted, made = cgroups.mounts(), []
    for member in cgroups.of_thread(os.getpid(), os.getpid()):
        parent = cgroups.directory(member, mounted) if member.hierarchy in SYSTEMS_OWN else ""
        if parent and os.access(parent, os.W_OK):
            made.append(Path(parent, f"stillframe-systemd-{os.getpid()}"))
            made[-1].mkdir()
    if not made:
        pytest.skip("no control groups that we may write")
    return made


def test_the_unit_has_its_main_process_again(lab: Lab, systemctl: Ask) -> None:
    images = lab.folder / "images" / "1"
    restore = engine("restore", "--restore-detached", "--pidfile", lab.folder / "pid", "--images-dir", images)
    (lab.folder / "start").write_text(START.format(folder=lab.folder, restore=" ".join(restore)))
    (lab.folder / "start").chmod(0o755)
    systemctl("start", "service")
    pid = int(systemctl("show", "--property=MainPID", "--value", "service"))
    hierarchies = [member.hierarchy for member in cgroups.of_thread(pid, pid) if member.hierarchy in SYSTEMS_OWN]
    before = {hierarchy: membership(pid, hierarchy) for hierarchy in hierarchies}
    assert any(path.endswith("/service.service") for path in before.values())
    inside = ["nsenter", "--mount", "--target", str(pid)]
    subprocess.run([*inside, *engine("dump", "--tree", pid, "--images-dir", lab.images("1"))], check=True, stdin=subprocess.DEVNULL)
    until(lambda: systemctl("is-active", "service") == "failed", "systemd does not see that its service has ended")
    (lab.folder / "pid").unlink(missing_ok=True)
    systemctl("start", "service")
    assert systemctl("is-active", "service") == "active"
    assert systemctl("show", "--property=MainPID", "--value", "service") == str(pid)
    assert {hierarchy: membership(pid, hierarchy) for hierarchy in hierarchies} == before
    systemctl("stop", "service")
    assert not Path(f"/proc/{pid}").exists()


def from_role(template: str, folder: Path, entry: dict[str, object]) -> str:
    """Return what role checkpoint makes of TEMPLATE for the service that ENTRY describes."""
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.filters.update(quote=lambda text: shlex.quote(str(text)), bool=bool)
    return environment.from_string((ROOT / "roles/checkpoint/templates" / template).read_text()).render(
        __checkpoint_entry={"options": {}, "auto_dedup": False, "full_every": 0, **entry},
        __checkpoint_flags=["tcp_close"],
        __checkpoint_values=["timeout"],
        __checkpoint_lists=[],
        checkpoint_config_directory=folder,
        checkpoint_engine_directory=ROOT,
        checkpoint_python=sys.executable,
        checkpoint_randomized_delay="1min",
    )


def test_the_timer_of_a_service_makes_dumps(lab: Lab, systemctl: Ask) -> None:
    units, root = lab.folder / ".config/systemd/user", lab.images("it")
    (units / "sleeper.service").write_text(SLEEPER)
    systemctl("daemon-reload")
    systemctl("start", "sleeper")
    pid = systemctl("show", "--property=MainPID", "--value", "sleeper")
    entry = {"name": "it", "pid": pid, "images_root": root, "schedule": "*:0/15", "keep": {"last": 2}, "hooks": []}
    entry["options"] = {"timeout": 9}
    (lab.folder / "it.conf").write_text(from_role("service.conf.j2", lab.folder, entry))
    for kind in ("service", "timer"):
        (units / f"{DUMPS}.{kind}").write_text(from_role(f"{kind}.j2", lab.folder, entry))
        checked = subprocess.run(["systemd-analyze", "verify", str(units / f"{DUMPS}.{kind}")], capture_output=True, text=True, check=False)
        assert checked.returncode == 0 and DUMPS not in checked.stderr, checked.stderr
    systemctl("daemon-reload")
    systemctl("start", f"{DUMPS}.timer")
    assert systemctl("show", "--property=NextElapseUSecRealtime", "--value", f"{DUMPS}.timer")
    for number in ("1", "2", "3"):
        systemctl("start", DUMPS)
        assert systemctl("show", "--property=Result", "--value", DUMPS) == "success", (lab.folder / "log").read_text()
        assert os.readlink(root / "latest") == number
    assert sorted(path.name for path in root.iterdir()) == [".checkpoint.lock", "2", "3", "latest"]
    assert os.readlink(root / "3" / "parent") == "../2"
    assert systemctl("show", "--property=MainPID", "--value", "sleeper") == pid
    systemctl("stop", f"{DUMPS}.timer", "sleeper")
