# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees with a host name of their own, as ProtectHostname= of systemd gives them: through a chain, and to another host."""

from __future__ import annotations

import os
import socket

import pytest
from _engine.dump import plan
from _engine.images.image import ImagesDir
from _engine.options import DumpOptions, RestoreOptions
from _engine.restore import plan as plan_restore

import moving
from look import assert_same, look, tree
from victim import Lab

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes root: it makes namespaces")


def namespaces(pid: int) -> set[str]:
    return {os.readlink(f"/proc/{one}/ns/uts") for one in tree(pid)}


@pytest.mark.parametrize("names", [("checkpointed", "of.its.own"), ("", ""), ("h" * 64, "d" * 64)], ids=["two", "empty", "longest"])
def test_each_dump_of_a_chain_has_its_own(lab: Lab, names: tuple[str, str]) -> None:
    victim, outside = lab.start("host_name", *names), socket.gethostname()
    dumps = []
    for number in (1, 2):
        victim.await_rest()
        looked = look(victim.pid)
        parent = ("--prev-images-dir", "../1") if number == 2 else ()
        dumps.append((lab.dump(victim.pid, str(number), "--track-mem", "--leave-running", *parent), looked))
        victim.await_rest()
        assert_same(looked, look(victim.pid))
        assert victim.ask("rename") == "ok"
    for images, looked in dumps:
        lab.end(victim.pid)
        lab.restore(images)
        victim.await_rest()
        assert_same(looked, look(victim.pid))
        (own,) = namespaces(victim.pid)
        assert own != os.readlink("/proc/self/ns/uts")
        assert victim.ask() == "ok"
        assert victim.ask("rename") == "ok"
        assert socket.gethostname() == outside


def test_it_moves_along(lab: Lab) -> None:
    victim = lab.start("host_name", "moved", "along")
    there = moving.host(lab)
    try:
        moved = moving.move(victim, there)
        assert not moved.get("error"), moved
        there.result()
        assert there.victim(victim).ask() == "ok"
        (own,) = namespaces(there.victim(victim).pid)
        assert own not in (os.readlink("/proc/self/ns/uts"), os.readlink(f"/proc/{there.init}/ns/uts"))
    finally:
        there.end()


def test_a_tree_with_two_is_refused(lab: Lab) -> None:
    differ = "[ $(readlink /proc/$!/ns/uts) != $(readlink /proc/$$/ns/uts) ]"
    child = f'unshare --uts sleep 1000 & until {differ}; do :; done; echo > "$0"; read line'
    done = lab.folder / "done"
    os.mkfifo(done)
    root = lab.spawn(["sh", "-ec", child, str(done)], stdin=-1)
    done.read_bytes()
    found = plan(DumpOptions(tree=root.pid, images_dir="")).obstacles
    assert [(one.where, one.pid) for one in found if "different ones" in one.why] == [("UTS namespace", max(tree(root.pid)))]
    assert root.stdin
    root.stdin.close()


def test_a_name_that_no_namespace_can_have_is_refused(lab: Lab) -> None:
    victim = lab.start("host_name", "short", "short")
    images = lab.dump(victim.pid, "1")
    directory = ImagesDir(str(images))
    (entry,) = directory.read("utsns-10")
    entry.nodename = "h" * 65  # type: ignore[attr-defined]
    directory.write("utsns-10", [entry])
    os.unlink(images / "stillframe.json")  # as if another program had made it
    lab.reap()
    (found,) = plan_restore(RestoreOptions(images_dir=str(images))).obstacles
    assert found.where == "UTS namespace" and "64 bytes" in found.why
