# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes: reading the memory of another process, and learning which pages of it were written."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

from ..errors import KernelError
from ..kernel import hugetlb, pagemap, procfs, userfaultfd
from ..kernel.syscall import syscall
from .specimen import Pages, Specimen

_PAGES = 16
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_WRITTEN = 5
"""The page, of _PAGES, that is written between two scans."""


def process_vm_readv() -> None:
    """Read memory of another process with process_vm_readv(2)."""
    known = ctypes.create_string_buffer(b"known content")
    found = ctypes.create_string_buffer(len(known))
    local = ctypes.create_string_buffer(struct.pack("@PN", ctypes.addressof(found), len(found)))  # struct iovec
    remote = ctypes.create_string_buffer(struct.pack("@PN", ctypes.addressof(known), len(known)))
    with Specimen() as specimen:
        syscall("process_vm_readv", specimen.pid, local, 1, remote, 1, 0)
    if found.raw != known.raw:
        raise KernelError("process_vm_readv read something else than what is there")


def proc_mem() -> None:
    """Read and write memory of another process through /proc/PID/mem."""
    known = ctypes.create_string_buffer(b"known content")
    address = ctypes.addressof(known)
    with Specimen() as specimen:
        procfs.write_memory(specimen.pid, address, b"other")
        if procfs.read_memory(specimen.pid, address, len(known)) != b"other content\0":
            raise KernelError("/proc/PID/mem does not keep what is written")


def uffd() -> None:
    """Make a userfaultfd and agree on its interface."""
    descriptor = _userfaultfd()
    try:
        fcntl.ioctl(descriptor, userfaultfd.UFFDIO_API, bytearray(struct.pack("<3Q", userfaultfd.UFFD_API, 0, 0)))
    finally:
        os.close(descriptor)


def memfd_hugetlb() -> None:
    """Make a file of huge pages."""
    os.close(syscall("memfd_create", b"stillframe\0", hugetlb.MFD_HUGETLB))


def aio_remap() -> None:
    """Move the ring of a context of asynchronous I/O, and use it there."""
    context = ctypes.create_string_buffer(8)
    syscall("io_setup", 1, context)
    start = int.from_bytes(context.raw, "little")
    try:
        size = next(area.end - area.start for area in procfs.maps(os.getpid()) if area.start == start)
        place = syscall("mmap", 0, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        start = syscall("mremap", start, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, place)
        syscall("io_getevents", start, 0, 0, 0, 0)
    finally:
        syscall("io_destroy", start)


def _userfaultfd() -> int:
    return syscall("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK | userfaultfd.UFFD_USER_MODE_ONLY)


def pagemap_scan() -> None:
    """Have PAGEMAP_SCAN find pages that are filled."""
    pages = Pages(_PAGES)
    descriptor = pagemap.open_pagemap(os.getpid())
    try:
        found = sum(run.pages for run in pagemap.filled(descriptor, pages.start, pages.end))
    finally:
        os.close(descriptor)
    if found != _PAGES:
        raise KernelError(f"PAGEMAP_SCAN found {found} of {_PAGES} pages")


def guard_pages() -> None:
    """Have PAGEMAP_SCAN tell the pages of guard regions (Linux 6.15)."""
    maps = pagemap.open_pagemap(os.getpid())
    try:
        told = pagemap.tells_guards(maps)
    finally:
        os.close(maps)
    if not told:
        raise KernelError("PAGEMAP_SCAN does not tell guard regions (Linux 6.15)")


def uffd_wp() -> None:
    """Have asynchronous write-protection and PAGEMAP_SCAN tell the one page that was written (Linux 6.7)."""
    pages = Pages(_PAGES)
    descriptor, maps = _userfaultfd(), pagemap.open_pagemap(os.getpid())
    try:
        userfaultfd.handshake(descriptor)
        userfaultfd.register(descriptor, pages.start, pages.end)
        _written(maps, pages)
        pages.write(_WRITTEN)
        expected = [pages.start + _WRITTEN * pagemap.PAGE_SIZE]
        if _written(maps, pages) != expected or _written(maps, pages):
            raise KernelError("write-protection does not tell the pages that were written")
    finally:
        os.close(maps)
        os.close(descriptor)


def _written(maps: int, pages: Pages) -> list[int]:
    """Return where the pages begin that were written since the last call, a run of them counting as one."""
    runs = pagemap.filled(maps, pages.start, pages.end, pagemap.PAGE_IS_WRITTEN, protect=True)
    return [run.start for run in runs if run.categories & pagemap.PAGE_IS_WRITTEN]


def soft_dirty() -> None:
    """Find the soft-dirty bit set in the pagemap entry of a page just written (CONFIG_MEM_SOFT_DIRTY).

    Documentation/admin-guide/mm/soft-dirty.rst: a mapping that is new counts as written.
    """
    pages = Pages(1)
    maps = pagemap.open_pagemap(os.getpid())
    try:
        runs = list(pagemap.filled_by_entries(maps, pages.start, pages.end))
    finally:
        os.close(maps)
    if not any(run.categories & pagemap.PAGE_IS_SOFT_DIRTY for run in runs):
        raise KernelError("the kernel does not set the soft-dirty bit (CONFIG_MEM_SOFT_DIRTY)")


def mem_dirty_track() -> None:
    """Track memory changes by the kernel in one way or another: what makes --track-mem fast."""
    reasons = []
    for tracker in (uffd_wp, soft_dirty):
        try:
            tracker()
        except (OSError, KernelError) as error:
            reasons.append(f"{tracker.__name__}: {error}")
        else:
            return
    raise KernelError("; ".join(reasons))


def compare() -> None:
    """Compare memory with the parent's pages: what it takes is reading memory of another process."""
    process_vm_readv()
