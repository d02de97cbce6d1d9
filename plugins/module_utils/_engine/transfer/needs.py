# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree needs of the host that it is to move to, and what of that is not there."""

from __future__ import annotations

import os
import platform
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..check import REQUIRED, check
from ..errors import MoveError, Obstacle
from ..images.pagemap import PAGE_SIZE
from ..kernel import procfs
from ..kernel.fdinfo import descriptors
from ..listening import listeners
from ..resources import numbers
from ..resources.files.build_id import build_id
from ..resources.inventory import machine
from .codec import garbled

_SPARE = 1.05
"""Of memory: page tables and the like."""
_CLOCK_DIFFERENCE = 1.0
"""Seconds: more than what a slow connection and a busy host make of clocks that agree."""


@dataclass(frozen=True)
class Needs:
    """What a tree needs, as its own host tells it."""

    machine: str
    page_size: int
    cpu: tuple[str, ...]
    numbers: tuple[int, ...]
    """Of all its processes and threads."""
    memory: int
    """Bytes that it has in memory."""
    programs: tuple[tuple[str, int, str], ...]
    """Path, size and build-id of the files that it executes from."""
    files: tuple[str, ...]
    """The paths of other files that it has open or mapped."""
    ports: tuple[tuple[str, str, int], ...]
    """Protocol, address and port of what it listens on."""
    time: float
    """Seconds since 1970, by the clock there."""

    @staticmethod
    def read(values: dict[str, Any]) -> Needs:
        """Return the needs in VALUES, as they came. Raises MoveError."""
        try:
            found = Needs(**{one.name: values[one.name] for one in fields(Needs)})
            _strings(found.cpu, found.files, [found.machine])
            _strings(*([path, wanted] for path, _size, wanted in found.programs))
            _strings(*([protocol, address] for protocol, address, _port in found.ports))
            _integers(found.numbers, [found.page_size, found.memory], [size for _path, size, _id in found.programs])
            _integers([port for _protocol, _address, port in found.ports], [int(found.time)])
        except (KeyError, TypeError, ValueError) as error:
            raise garbled() from error
        return found

    def values(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


def _strings(*lists: Sequence[object]) -> None:
    if not all(isinstance(one, str) and "\0" not in one for found in lists for one in found):
        raise garbled()


def _integers(*lists: Sequence[object]) -> None:
    if not all(isinstance(one, int) and 0 <= one < 1 << 63 for found in lists for one in found):
        raise garbled()


def look(pids: Sequence[int]) -> Needs:
    """Return what the tree of PIDS, which runs, needs. What is gone already is not needed. Raises OSError."""
    programs: dict[str, tuple[str, int, str]] = {}
    files: dict[str, None] = {}
    ports: dict[tuple[str, str, int], None] = {}
    threads: list[int] = []
    memory = 0
    for pid in pids:
        with suppress(*procfs.GONE):
            threads += procfs.threads(pid)
            memory += int(procfs.status(pid).get("VmRSS", "0").split()[0]) << 10
            _add_mapped(pid, programs, files)
            sockets = _add_open(pid, files)
            ports.update({(one.protocol, one.address, one.port): None for one in listeners(pid, sockets) if one.port})
    others = tuple(path for path in files if path not in programs)
    _host, _kernel, cpu = machine()
    return Needs(platform.machine(), PAGE_SIZE, cpu, tuple(threads), memory, tuple(programs.values()), others, tuple(ports), time.time())


def _add_mapped(pid: int, programs: dict[str, tuple[str, int, str]], files: dict[str, None]) -> None:
    for area in procfs.maps(pid):
        if area.name.startswith("/") and area.inode and os.path.isfile(area.name):
            if "x" in area.perms and area.name not in programs:
                programs[area.name] = (area.name, os.stat(area.name).st_size, _build_id(area.name))
            files[area.name] = None


def _add_open(pid: int, files: dict[str, None]) -> set[int]:
    """Add the files that PID has open, and return the inodes of its sockets."""
    sockets = set()
    for fd in descriptors(pid):
        with suppress(*procfs.GONE):
            status = os.stat(f"/proc/{pid}/fd/{fd}")
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            if stat.S_ISSOCK(status.st_mode):
                sockets.add(status.st_ino)
            elif (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) and status.st_nlink and os.path.exists(path):
                files[path] = None
    return sockets


def _build_id(path: str) -> str:
    with suppress(OSError), open(path, "rb") as file:
        return build_id(file.fileno()).hex()
    return ""


def obstacles(needs: Needs, spare: float = _SPARE) -> list[Obstacle]:
    """Return all that this host lacks of NEEDS. Touches nothing."""
    return [*_machine(needs), *_files(needs), *_ports(needs), *_memory(needs, spare), *numbers.check(needs.numbers), *_features()]


def _machine(needs: Needs) -> Iterator[Obstacle]:
    if (needs.machine, needs.page_size) != (platform.machine(), PAGE_SIZE):
        here = f"the destination of {platform.machine()} with {PAGE_SIZE}"
        why = f"the tree is of {needs.machine} with pages of {needs.page_size} bytes, {here}"
        yield Obstacle(0, "machine", why, "move it to a host of its kind")
        return
    lacking = ", ".join(sorted(set(needs.cpu) - set(machine()[2])))
    if lacking:
        yield Obstacle(0, "processor", f"that of the destination has no {lacking}", "move it to a host whose processor has them all")


def _files(needs: Needs) -> Iterator[Obstacle]:
    for path, size, wanted in needs.programs:
        if not os.path.isfile(path):
            yield Obstacle(0, path, "it is missing on the destination", "install there what the old host has")
        elif (os.stat(path).st_size, _build_id(path)) != (size, wanted):
            yield Obstacle(0, path, "it is another build on the destination", "install there what the old host has")
    for path in needs.files:
        if not os.path.exists(path):
            yield Obstacle(0, path, "it is missing on the destination", "copy it there, or put it on storage that both hosts have")


def _ports(needs: Needs) -> Iterator[Obstacle]:
    wanted = {(protocol[:3], port) for protocol, _address, port in needs.ports}
    for one in listeners(os.getpid(), AnyInode()) if wanted else ():
        if (one.protocol[:3], one.port) in wanted:
            yield Obstacle(0, f"port {one.port}", f"another program listens on it on the destination, at {one.address}", "end that program")


class AnyInode:
    """Holds every inode: for asking for all sockets of a network namespace."""

    def __contains__(self, inode: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


def _memory(needs: Needs, spare: float) -> Iterator[Obstacle]:
    lines = (line.split() for line in procfs.text("/proc/meminfo").splitlines())
    free = next((int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:"), 0)
    if needs.memory * spare > free:
        why = f"{free >> 20} MiB are free on the destination, and the tree has {needs.memory >> 20} MiB"
        yield Obstacle(0, "memory", why, "free memory there, or move it elsewhere")


def _features() -> Iterator[Obstacle]:
    for feature in check(()):
        if feature.category == REQUIRED and not feature.ok:
            yield Obstacle(0, f"kernel feature {feature.name}", feature.detail, "use a newer kernel there, and run as root")


def warnings(needs: Needs) -> list[str]:
    """Return what is no obstacle, but worth knowing."""
    return [*_clock(needs)]


def _clock(needs: Needs) -> Iterator[str]:
    """Warn of a clock that goes wrong: what came from the source is later here, by as long as it was on its way."""
    ahead = time.time() - needs.time
    if abs(ahead) > _CLOCK_DIFFERENCE:
        how = "ahead" if ahead > 0 else "behind"
        yield (
            f"the clock of the destination is {abs(ahead):.1f} s {how}: the tree will see a jump, and what it has planned or let expire "
            "by the time of day happens so much earlier or later; synchronize both clocks (NTP)"
        )


def to_values(found: Sequence[Obstacle]) -> list[dict[str, Any]]:
    """Return obstacles as plain values."""
    return [asdict(one) for one in found]


def from_values(values: object) -> list[Obstacle]:
    """Return the obstacles in VALUES, as they came. Raises MoveError."""
    try:
        if not isinstance(values, list):
            raise garbled()
        return [Obstacle(int(one["pid"]), str(one["where"]), str(one["why"]), str(one["remedy"])) for one in values]
    except (KeyError, TypeError, ValueError) as error:
        raise garbled() from error


def texts(values: object) -> list[str]:
    """Return the warnings in VALUES, as they came. Raises MoveError."""
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise garbled()
    return [one[:1000] for one in values]


def refused(found: Sequence[Obstacle]) -> MoveError:
    """Return the error that names all of FOUND."""
    return MoveError("; ".join(map(str, found)))
