# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tree needs of the host that it is to move to; `lacks.py` tells what of that is not there."""

from __future__ import annotations

import os
import platform
import stat
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from ..errors import MoveError, Obstacle
from ..images.pagemap import PAGE_SIZE
from ..kernel import hugetlb, procfs
from ..kernel.fdinfo import descriptors, fdinfo
from ..listening import bound, connected
from ..resources.files.build_id import build_id
from ..resources.inventory import machine
from ..resources.memory.mapping import MEMORY_NAMES, SYSV_NAME
from .carried import Carried
from .codec import garbled


_MEMORY = (*MEMORY_NAMES, SYSV_NAME)
_OF_CONNECTIONS = ("tcp_repair", "network_lock_nftables")


class File(NamedTuple):
    """A file that a tree has open or mapped, but executes nothing from."""

    path: str
    size: int
    """-1 for a directory."""
    mtime: int
    """Nanoseconds since 1970."""
    written: bool
    """Whether the tree can write to it: it may change at any time."""


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
    huge: int
    """Bytes of it in huge pages."""
    files: tuple[File, ...]
    ports: tuple[tuple[str, str, int], ...]
    """Protocol (tcp, tcp6, udp, udp6), address and port of what it listens on, or waits for datagrams on."""
    features: tuple[str, ...]
    """Of the kernel, by the names of `check`, that some of what it has needs besides."""
    time: float
    """Seconds since 1970, by the clock there."""
    carried: tuple[Carried, ...]
    """The files that are to come along."""
    boot: str
    """What tells its kernel from any other."""

    @staticmethod
    def read(values: dict[str, Any]) -> Needs:
        """Return the needs in VALUES, as they came. Raises MoveError."""
        try:
            found = Needs(**{one.name: values[one.name] for one in fields(Needs)})
            carried = tuple(Carried(*one) for one in found.carried)
            found = replace(found, files=tuple(File(*one) for one in found.files), carried=carried)
            _strings([found.boot], *([one.path, one.filesystem] for one in carried))
            _integers(*(one[1:4] for one in carried))
            _strings(found.cpu, [one.path for one in found.files], [found.machine], found.features)
            _strings(*([path, wanted] for path, _size, wanted in found.programs))
            _strings(*([protocol, address] for protocol, address, _port in found.ports))
            _integers([one.size + 1 for one in found.files], [one.mtime for one in found.files])
            _integers(found.numbers, [found.page_size, found.memory, found.huge], [size for _path, size, _id in found.programs])
            _integers([port for _protocol, _address, port in found.ports], [int(found.time)])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise garbled() from error
        return found

    def values(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


def _strings(*lists: Sequence[object]) -> None:
    for one in (one for found in lists for one in found):
        if not isinstance(one, str) or "\0" in one:
            raise garbled()
        os.fsencode(one)  # UnicodeEncodeError for what can be no path


def _integers(*lists: Sequence[object]) -> None:
    if not all(isinstance(one, int) and 0 <= one < 1 << 63 for found in lists for one in found):
        raise garbled()


def look(pids: Sequence[int], connections: bool = False, carried: Sequence[Carried] = ()) -> Needs:
    """Return what the tree of PIDS, which runs, needs; with its CONNECTIONS if they are to be carried, and the files CARRIED along.

    What is gone already is not needed. Raises OSError.
    """
    programs: dict[str, tuple[str, int, str]] = {}
    files: dict[str, File] = {}
    ports: dict[tuple[str, str, int], None] = {}
    features: dict[str, None] = {}
    threads: list[int] = []
    shared: dict[tuple[str, int], int] = {}
    memory, huge, pools = 0, 0, hugetlb.devices()
    for pid in pids:
        with suppress(*procfs.GONE):
            status = procfs.status(pid)
            threads += procfs.threads(pid)
            memory += _bytes(status, "VmRSS") - _bytes(status, "RssShmem")
            huge += _bytes(status, "HugetlbPages")
            areas = procfs.maps(pid)
            shared.update(_shared(pid, areas, pools))
            _add_mapped(areas, programs, files)
            sockets = _add_open(pid, files)
            ports.update({(one.protocol, one.address, one.port): None for one in bound(pid, sockets)})
            features.update(dict.fromkeys(_features(status, areas)))
            if connections and any(True for _one in connected(pid, sockets)):
                features.update(dict.fromkeys(_OF_CONNECTIONS))
    not_there = {*programs, *(one.path for one in carried)}
    others = tuple(one for path, one in files.items() if path not in not_there and os.path.lexists(path))  # one may be removed by now
    _host, _kernel, cpu = machine()
    return Needs(
        machine=platform.machine(),
        page_size=PAGE_SIZE,
        cpu=cpu,
        numbers=tuple(threads),
        memory=memory + sum(shared.values()),
        programs=tuple(programs.values()),
        huge=huge,
        files=others,
        ports=tuple(ports),
        features=tuple(features),
        time=time.time(),
        carried=tuple(carried),
        boot=procfs.boot_id(),
    )


def _bytes(status: Mapping[str, str], name: str) -> int:
    return int(status.get(name, "0").split()[0]) << 10


def _shared(pid: int, areas: Sequence[procfs.Area], pools: Container[int]) -> Iterator[tuple[tuple[str, int], int]]:
    """Yield the objects of shared memory that PID maps in AREAS, but for those of POOLS of huge pages, and the bytes each has in memory."""
    for area in areas:
        if area.name.startswith(_MEMORY):
            with suppress(*procfs.GONE):
                status = os.stat(f"/proc/{pid}/map_files/{area.start:x}-{area.end:x}")
                if not status.st_nlink and status.st_dev not in pools:
                    yield (area.device, area.inode), status.st_blocks * 512


def _features(status: Mapping[str, str], areas: Sequence[procfs.Area]) -> Iterator[str]:
    """Yield the features that a process needs at its restore."""
    if int(status.get("Seccomp", "0")):
        yield "seccomp_suspend"
    if any(area.name.startswith("/[aio]") for area in areas):
        yield "aio_remap"


def _add_mapped(areas: Sequence[procfs.Area], programs: dict[str, tuple[str, int, str]], files: dict[str, File]) -> None:
    for area in areas:
        if area.name.startswith("/") and area.inode and os.path.isfile(area.name):
            if "x" in area.perms and area.name not in programs:
                programs[area.name] = (area.name, os.stat(area.name).st_size, build_id_of(area.name))
            _add(files, area.name, os.stat(area.name), area.shared and "w" in area.perms)


def _add_open(pid: int, files: dict[str, File]) -> set[int]:
    """Add the files that PID has open, and return the inodes of its sockets."""
    sockets = set()
    for fd in descriptors(pid):
        with suppress(*procfs.GONE):
            status = os.stat(f"/proc/{pid}/fd/{fd}")
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
            if stat.S_ISSOCK(status.st_mode):
                sockets.add(status.st_ino)
            elif (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)) and status.st_nlink and os.path.exists(path):
                _add(files, path, status, fdinfo(pid, fd).flags & os.O_ACCMODE != os.O_RDONLY)
    return sockets


def _add(files: dict[str, File], path: str, status: os.stat_result, written: bool) -> None:
    """Add a file, but one of /proc: of those each host has its own."""
    if not path.startswith("/proc/"):
        size = -1 if stat.S_ISDIR(status.st_mode) else status.st_size
        files[path] = File(path, size, status.st_mtime_ns, written or (path in files and files[path].written))


def build_id_of(path: str) -> str:
    """Return the build-id of the program at PATH, in hexadecimal; empty when it has none."""
    with suppress(OSError), open(path, "rb") as file:
        return build_id(file.fileno()).hex()
    return ""


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
