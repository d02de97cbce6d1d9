# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The vDSO: of another build of the kernel, as images tell it; none at all; and threads that are stopped inside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from _engine.images.image import ImagesDir
from _engine.kernel import procfs
from _engine.tracee.freeze import FrozenTree
from _engine.tracee.vdso import inside, places
from other_vdso import Altered, image_of, real_vdso, vdso_of
from victim import Lab, Victim, sentence, until

OTHER = b"another build of the kernel"


def check(victim: Victim) -> None:
    """Let VICTIM ask its vDSO in all ways."""
    offsets = image_of(victim.pid).offsets()
    assert victim.ask() == "ok"
    for name in ("time", "getcpu"):
        assert victim.ask(f"{name} {offsets[f'__vdso_{name}']}") == "ok"


def spans(pid: int) -> list[tuple[int, int]]:
    """Return where PID has mappings, neighbours joined; the kernel's vDSO left out."""
    found: list[tuple[int, int]] = []
    own = vdso_of(pid).start
    for area in procfs.maps(pid):
        if area.name in ("[vdso]", "[vvar]", "[vvar_vclock]") and real_vdso(pid) != [own]:
            continue
        joined = found and found[-1][1] == area.start
        found.append((found.pop()[0], area.end) if joined else (area.start, area.end))
    return found


def test_of_another_build(lab: Lab) -> None:
    victim = lab.start("vdso")
    before, place = spans(victim.pid), vdso_of(victim.pid).start
    images = lab.dump(victim.pid, "1")
    own_build = Altered(images, victim.pid, place).of_another_build(OTHER)
    sizes = []
    for number in ("2", "3"):
        lab.reap()
        lab.restore(images)
        assert vdso_of(victim.pid).start == place and real_vdso(victim.pid) != [place] and spans(victim.pid) == before
        check(victim)
        images = lab.dump(victim.pid, number, "--track-mem", "--leave-running")
        check(victim)
        lab.end(victim.pid)
        sizes.append(len(ImagesDir(str(images)).read(f"mm-{victim.pid}")[0].vmas))
    assert sizes[0] == sizes[1]
    Altered(images, victim.pid, place).of_another_build(own_build)  # and back to the kernel where it began
    lab.restore(images)
    assert real_vdso(victim.pid) == [place] and spans(victim.pid) == before
    check(victim)
    lab.end(victim.pid)


def test_functions_at_other_offsets(lab: Lab) -> None:
    victim = lab.start("vdso")
    place, ours = vdso_of(victim.pid).start, image_of(victim.pid).offsets()
    images = lab.dump(victim.pid, "1")
    Altered(images, victim.pid, place).swap("__vdso_time", "__vdso_getcpu")
    lab.restore(images)
    swapped = image_of(victim.pid).offsets()
    assert swapped["__vdso_time"] == ours["__vdso_getcpu"] and swapped["__vdso_getcpu"] == ours["__vdso_time"]
    for name in ("time", "getcpu"):
        assert victim.ask(f"{name} {swapped[f'__vdso_{name}']}") == "ok"
    lab.end(victim.pid)


def test_a_damaged_one(lab: Lab) -> None:
    victim = lab.start("vdso")
    images = lab.dump(victim.pid, "1")
    Altered(images, victim.pid, vdso_of_image(images, victim.pid)).replace(bytes(8192))
    said = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert f"process {victim.pid}, vDSO" in said and "damaged" in said


def vdso_of_image(images: Path, pid: int) -> int:
    """Return where the task PID of a dump had its vDSO."""
    return next(vma.start for vma in ImagesDir(str(images)).read(f"mm-{pid}")[0].vmas if vma.status & 8)


def test_a_thread_inside_it(lab: Lab) -> None:
    victim = lab.start("vdso")
    place = vdso_of(victim.pid).start
    images = lab.dump(victim.pid, "1")
    altered = Altered(images, victim.pid, place)
    own_build = altered.of_another_build(OTHER)
    core = ImagesDir(str(images)).read(f"core-{victim.pid}")[0]
    ip, core.thread_info.gpregs.ip = core.thread_info.gpregs.ip, place + 2800
    os.unlink(images / f"core-{victim.pid}.img")
    ImagesDir(str(images)).write(f"core-{victim.pid}", [core])
    said = sentence(lab.engine("restore", "--images-dir", images, "--restore-detached"))
    assert f"process {victim.pid}, vDSO" in said and "inside it" in said
    assert own_build and ip


@pytest.mark.parametrize("leave", ["--leave-running", ""])
def test_without_one(lab: Lab, leave: str) -> None:
    victim = lab.start("vdso")
    assert victim.ask("unmap") == "ok"
    images = lab.dump(victim.pid, "1", *filter(None, [leave]))
    if leave:
        assert victim.ask("nothing") == "ok"
        lab.end(victim.pid)
    lab.reap()
    lab.restore(images)
    assert not any("[v" in area.name and area.name != "[vsyscall]" for area in procfs.maps(victim.pid))
    assert victim.ask("nothing") == "ok"
    lab.end(victim.pid)


def test_no_thread_is_left_inside_it(lab: Lab) -> None:
    victim = lab.start("vdso")
    assert victim.ask("spin") == "ok"
    ranges = places(victim.pid)
    met = 0
    for _time in range(40):
        with FrozenTree(victim.pid, 20) as tree:
            (task,) = tree.tasks
            met += sum(inside(thread.registers().ip, ranges) for thread in task.threads)
    assert not met
    assert victim.ask() == "ok"
    until(lambda: Path(f"/proc/{victim.pid}/status").read_text().count("TracerPid:\t0") == 1, "it is still traced")
    lab.end(victim.pid)
