# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The UTS namespace of a tree: a host name and an NIS domain name of its own (uts_namespaces(7)), as ProtectHostname= of systemd makes it.

images: utsns-ID (utsns_entry of CRIU). A tree in our own namespace has none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from ..errors import KernelError, Obstacle, RestoreError, TargetError, UnsupportedError
from ..images.image import ImagesDir
from ..images.schema import message
from ..kernel import procfs
from ..kernel.clone import CLONE_NEWUTS
from ..kernel.syscall import syscall
from .mounts.inside import Inside, namespaces_of

NAMESPACE_ID = 10
"""The number of the namespace in the images: those of ours, and one of mounts, come before."""
_FILES = {"nodename": "/proc/sys/kernel/hostname", "domainname": "/proc/sys/kernel/domainname"}
"""By field of utsns_entry: what tells the name in the namespace of who reads it (kernel/utsname_sysctl.c)."""
_CALLS = {"nodename": "sethostname", "domainname": "setdomainname"}
_LONGEST = 64
"""Bytes: __NEW_UTS_LEN of include/uapi/linux/utsname.h."""


class UtsDump:
    """The UTS namespace of a tree on its way into the images."""

    def __init__(self) -> None:
        self._entry: Optional[Any] = None

    def collect(self, pids: Sequence[int]) -> None:
        """Take the names; PIDS stand still. UnsupportedError when they are in more than one namespace, TargetError, KernelError."""
        refused = obstacles(pids)
        if refused:
            raise UnsupportedError(refused)
        try:
            if os.readlink(f"/proc/{pids[0]}/ns/uts") == os.readlink("/proc/self/ns/uts"):
                return
            with Inside(lambda: _enter(pids[0])) as inside:
                self._entry = message("utsns_entry")(**inside.run(_names))
        except UnicodeEncodeError as error:
            obstacle = Obstacle(pids[0], "UTS namespace", "its host name is not UTF-8, which the images cannot hold", "give it another one")
            raise UnsupportedError([obstacle]) from error
        except procfs.GONE as error:
            raise TargetError(f"process {pids[0]} has ended; name one that runs") from error
        except OSError as error:
            raise KernelError(f"the host name of process {pids[0]} cannot be read ({error}); run as root") from error

    def ids(self) -> Mapping[str, int]:
        """Return the id of the namespace, if it is not ours, by its field in task_kobj_ids_entry; after `collect`."""
        return {"uts_ns_id": NAMESPACE_ID} if self._entry is not None else {}

    def write(self, images: ImagesDir) -> None:
        """Write the image. Raises ImagesError."""
        if self._entry is not None:
            images.write(f"utsns-{NAMESPACE_ID}", [self._entry])


def obstacles(pids: Sequence[int]) -> list[Obstacle]:
    """Return what keeps the namespace of PIDS from being made again. Touches nothing."""
    others = list(namespaces_of(pids, "uts").values())[1:]
    why = "processes or threads of the tree have different ones"
    return [Obstacle(pid, "UTS namespace", why, "dump each part by itself") for pid in others]


def _enter(pid: int) -> None:
    namespace = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscall("setns", namespace, CLONE_NEWUTS)
    finally:
        os.close(namespace)


def _names() -> dict[str, str]:
    return {field: procfs.text(path)[:-1] for field, path in _FILES.items()}


def carries(images: ImagesDir, number: int) -> bool:
    """Tell whether IMAGES have UTS namespace NUMBER."""
    return images.has(f"utsns-{number}")


def check(images: ImagesDir, pids: Sequence[int]) -> Iterator[Obstacle]:
    """Return what keeps the namespace of the processes PIDS in IMAGES from being made, by trying. Raises ImagesError."""
    numbers = {pid: _number(images, pid) for pid in pids}
    for pid, number in numbers.items():
        if number != numbers[pids[0]]:
            yield Obstacle(pid, "UTS namespace", "processes of the tree had different ones", "restore it with CRIU")
            return
    try:
        made = make(images, pids)
    except RestoreError as error:
        yield Obstacle(pids[0], "UTS namespace", str(error), "run as root, with CAP_SYS_ADMIN")
    else:
        if made is not None:
            os.close(made)


def make(images: ImagesDir, pids: Sequence[int]) -> Optional[int]:
    """Make the namespace that PIDS had, and return a descriptor of it, the caller's to close; None when it was that of the dump's maker.

    Raises RestoreError, ImagesError.
    """
    number = _number(images, pids[0])
    if not number:
        return None
    entry: Any = images.read_one(f"utsns-{number}")
    try:
        with Inside(lambda: _make(entry)) as inside:
            return os.open(inside.proc("ns/uts"), os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise RestoreError(f"one with host name {entry.nodename!r} cannot be made ({error})") from error


def _make(entry: Any) -> None:
    syscall("unshare", CLONE_NEWUTS)
    for field, call in _CALLS.items():
        name = getattr(entry, field).encode("utf-8", "surrogateescape")
        if len(name) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST} bytes")
        syscall(call, name, len(name))


def _number(images: ImagesDir, pid: int) -> int:
    """Return the id of the namespace of PID, 0 when it was that of the dump's maker."""
    inventory: Any = images.read_one("inventory")
    if not inventory.HasField("root_ids"):
        return 0
    ids: Any = images.read(f"ids-{pid}")[0]
    return int(ids.uts_ns_id) if ids.uts_ns_id not in (0, inventory.root_ids.uts_ns_id) else 0
