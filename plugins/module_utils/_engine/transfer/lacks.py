# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a destination lacks of what a tree needs, all of it at once. Touches nothing."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress

from ..check import REQUIRED, check
from ..errors import Obstacle
from ..images.pagemap import PAGE_SIZE
from ..kernel import cgroups, procfs
from ..listening import Listener, bound
from ..resources import numbers
from ..resources.inventory import machine
from .needs import File, Needs, build_id_of

_SPARE = 1.05
"""Of memory: page tables and the like."""
_CLOCK_DIFFERENCE = 1.0
"""Seconds: more than what a slow connection and a busy host make of clocks that agree."""
_ANYWHERE = ("0.0.0.0", "::")


def obstacles(needs: Needs, spare: float = _SPARE) -> list[Obstacle]:
    """Return all that this host lacks of NEEDS."""
    here = [*_machine(needs), *_programs(needs), *_files(needs), *_ports(needs), *_memory(needs, spare), *_huge(needs)]
    return [*here, *numbers.check(needs.numbers), *_features(needs)]


def _machine(needs: Needs) -> Iterator[Obstacle]:
    if (needs.machine, needs.page_size) != (platform.machine(), PAGE_SIZE):
        here = f"the destination of {platform.machine()} with {PAGE_SIZE}"
        why = f"the tree is of {needs.machine} with pages of {needs.page_size} bytes, {here}"
        yield Obstacle(0, "machine", why, "move it to a host of its kind")
        return
    lacking = ", ".join(sorted(set(needs.cpu) - set(machine()[2])))
    if lacking:
        yield Obstacle(0, "processor", f"that of the destination has no {lacking}", "move it to a host whose processor has them all")


def _programs(needs: Needs) -> Iterator[Obstacle]:
    for path, size, wanted in needs.programs:
        if not os.path.isfile(path):
            yield Obstacle(0, path, "it is missing on the destination", "install there what the old host has")
        elif (os.stat(path).st_size, build_id_of(path)) != (size, wanted):
            yield Obstacle(0, path, "it is another build on the destination", "install there what the old host has")


def _files(needs: Needs) -> Iterator[Obstacle]:
    for file in needs.files:
        why = _difference(file)
        if why:
            yield Obstacle(0, file.path, f"{why} on the destination", "copy it there, or put it on storage that both hosts have")


def _difference(file: File) -> str:
    """Return how FILE differs here, empty when it does not: what has grown since the source looked is no difference."""
    try:
        found = os.stat(file.path)
    except OSError:
        return "it is missing"
    if (file.size < 0) != os.path.isdir(file.path):
        return "it is a directory on one host and none"
    grown = file.written and found.st_mtime_ns >= file.mtime
    if file.size >= 0 and found.st_size != file.size and not grown:
        return f"it has {file.size} bytes here, and {found.st_size}"
    return ""


def _ports(needs: Needs) -> Iterator[Obstacle]:
    for one in _colliding(needs, "tcp"):
        yield Obstacle(0, f"port {one.port}", f"another program listens on it on the destination, at {one.address}", "end that program")


def _colliding(needs: Needs, kind: str) -> Iterator[Listener]:
    """Yield the sockets here that have what one of the tree wants, but for those that may share it."""
    wanted = [(address, port) for protocol, address, port in needs.ports if protocol.startswith(kind)]
    for one in bound(os.getpid(), AnyInode()) if wanted else ():
        overlaps = any(
            port == one.port and (address == one.address or address in _ANYWHERE or one.address in _ANYWHERE) for address, port in wanted
        )
        if overlaps and one.protocol.startswith(kind):
            yield one


class AnyInode:
    """Holds every inode: for asking for all sockets of a network namespace."""

    def __contains__(self, inode: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


def _memory(needs: Needs, spare: float) -> Iterator[Obstacle]:
    free, where = min([(_info("MemAvailable"), "on the destination"), *_limits()])
    if needs.memory * spare > free:
        why = f"{free >> 20} MiB are free {where}, and the tree has {needs.memory >> 20} MiB"
        yield Obstacle(0, "memory", why, "free memory there, or move it elsewhere")


def _huge(needs: Needs) -> Iterator[Obstacle]:
    free = _info("HugePages_Free") // 1024 * _info("Hugepagesize")  # the first one is no kB
    if needs.huge > free:
        why = f"{free >> 20} MiB of them are free on the destination, and the tree has {needs.huge >> 20} MiB"
        yield Obstacle(0, "huge pages", why, "reserve more there (vm.nr_hugepages)")


def _info(name: str) -> int:
    """Return a value of /proc/meminfo, which has kB, in bytes; 0 for one that is not there."""
    lines = (line.split() for line in procfs.text("/proc/meminfo").splitlines())
    return next((int(words[1]) << 10 for words in lines if words[0] == f"{name}:"), 0)


def _limits() -> Iterator[tuple[int, str]]:
    """Yield what the control groups of ours leave free, of version 2: the tree comes into memory of ours first."""
    mounted = cgroups.mounts()
    for member in cgroups.of_thread(os.getpid(), os.getpid()):
        path = cgroups.directory(member, mounted) if member.hierarchy == cgroups.VERSION_2 else ""
        while path and path != os.path.dirname(mounted[member.hierarchy].directory):
            with suppress(OSError, ValueError):  # no limit: "max", and of the topmost no file
                left = int(procfs.text(f"{path}/memory.max")) - int(procfs.text(f"{path}/memory.current"))
                yield left, f"in the control group of the receiver ({path})"
            path = os.path.dirname(path)


def _features(needs: Needs) -> Iterator[Obstacle]:
    for feature in check(()):
        if not feature.ok and (feature.category == REQUIRED or feature.name in needs.features):
            yield Obstacle(0, f"kernel feature {feature.name}", feature.detail, "use a newer kernel on the destination, and run as root")


def warnings(needs: Needs) -> list[str]:
    """Return what is no obstacle, but worth knowing."""
    return [*_clock(needs), *_datagrams(needs)]


def _datagrams(needs: Needs) -> Iterator[str]:
    for one in _colliding(needs, "udp"):
        yield f"another program on the destination has UDP port {one.port}: if it does not share it (SO_REUSEADDR), the move fails; end it"


def _clock(needs: Needs) -> Iterator[str]:
    """Warn of a clock that goes wrong: what came from the source is later here, by as long as it was on its way."""
    ahead = time.time() - needs.time
    if abs(ahead) > _CLOCK_DIFFERENCE:
        how = "ahead" if ahead > 0 else "behind"
        yield (
            f"the clock of the destination is {abs(ahead):.1f} s {how}: the tree will see a jump, and what it has planned or let expire "
            "by the time of day happens so much earlier or later; synchronize both clocks (NTP)"
        )
