# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Sealed mappings (mseal(2), Linux 6.10) come back sealed, and names of anonymous memory with their mappings."""

from __future__ import annotations

import sys

import pytest
from _engine.images.image import ImagesDir
from _engine.images.schema import message
from _engine.kernel import procfs
from _engine.kernel.procfs import Area
from _engine.resources.memory import names, seal
from _engine.resources.memory.mapping import VMA_ANON_PRIVATE, Mapping
from look import assert_same, look
from victim import Lab, pauses, until

PROGRAM = """
import ctypes, mmap, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def made(flags, prot=mmap.PROT_READ | mmap.PROT_WRITE, fd=-1):
    at = libc.mmap(None, 65536, prot, flags, fd, 0)
    if at == 2**64 - 1:
        sys.exit(1)
    return at
for flags in mmap.MAP_PRIVATE, mmap.MAP_SHARED:
    at = made(flags | mmap.MAP_ANONYMOUS)
    ctypes.memset(at, 7, 32768)
    libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(16384), mmap.PROT_READ)
    if libc.syscall(462, ctypes.c_void_p(at), ctypes.c_size_t(65536), ctypes.c_ulong(0)):
        sys.exit(1)
with open(sys.argv[0]) as program:
    at = made(mmap.MAP_PRIVATE, mmap.PROT_READ, program.fileno())
    libc.syscall(462, ctypes.c_void_p(at), ctypes.c_size_t(65536), ctypes.c_ulong(0))
signal.pause()
"""


def sealed(pid: int) -> list[Area]:
    """Return the mappings of PID that are sealed."""
    return [area for area in procfs.smaps(pid) if seal.SEALED in area.vm_flags]


def test_sealed_mappings_are_sealed_again(lab: Lab) -> None:
    program = lab.folder / "program"
    program.write_text(PROGRAM)
    process = lab.spawn([sys.executable, str(program)], env={"GLIBC_TUNABLES": "glibc.pthread.rseq=0"})
    until(lambda: process.poll() is not None or pauses(process.pid), "it does not come to rest")
    if process.poll() is not None:
        pytest.skip("this kernel has no mseal")
    lab.dump(process.pid, "1", "--track-mem", "--leave-running")
    until(lambda: pauses(process.pid), "it runs")
    before, flags = look(process.pid), [(area.start, area.end, area.vm_flags - {"uw"}) for area in sealed(process.pid)]
    assert len(flags) == 5
    path = lab.dump(process.pid, "2", "--prev-images-dir=../1")
    lab.reap()
    lab.restore(path, "--track-mem")
    until(lambda: pauses(process.pid), "it runs")
    assert_same(before, look(process.pid))
    assert [(area.start, area.end, area.vm_flags - {"uw"}) for area in sealed(process.pid)] == flags
    lab.dump(process.pid, "3", "--prev-images-dir=../2")
    (mm,) = ImagesDir(str(path)).read(f"mm-{process.pid}")
    assert sum(vma.stillframe.sealed for vma in mm.vmas) == len(flags)


def test_a_kernel_that_cannot_seal_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    vma = message("vma_entry")(start=4096, end=8192, pgoff=0, shmid=0, prot=0, flags=0, status=0, fd=-1)
    monkeypatch.setattr(seal, "_supported", lambda: False)
    monkeypatch.setattr(seal, "_seals_the_vdso", lambda: False)
    assert seal.check(5, [vma]) == []
    vma.stillframe.sealed = True
    assert [obstacle.where for obstacle in seal.check(5, [vma])] == ["sealed memory"]
    monkeypatch.setattr(seal, "_seals_the_vdso", lambda: True)
    assert [obstacle.where for obstacle in seal.check(5, [vma])] == ["sealed memory", "vDSO"]


@pytest.mark.parametrize(("shown", "name"), [("[anon:glibc: malloc]", "glibc: malloc"), ("[anon_shmem:x]", "x"), ("[heap]", ""), ("", "")])
def test_names(shown: str, name: str) -> None:
    vma = message("vma_entry")(start=4096, end=8192, pgoff=0, shmid=0, prot=0, flags=0, status=0, fd=-1)
    names.fill(vma, Mapping(Area(4096, 8192, "rw-p", 0, "00:00", 0, shown), VMA_ANON_PRIVATE))
    assert vma.stillframe.name == name
    assert [call.args[2:] for call in names.restore_calls([vma])] == ([(4096, 4096, name.encode() + b"\0")] if name else [])
