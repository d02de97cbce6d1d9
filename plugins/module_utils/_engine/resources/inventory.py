# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump says of itself: inventory, ids of shared objects (images/inventory.proto, core.proto), and who made it where."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Mapping, Tuple

from ..images.manifest import Tree
from ..images.schema import message
from ..kernel import procfs

CRTOOLS_IMAGES_V1_1 = 2  # criu/include/magic.h
PRE_DUMP_READ = 2  # criu/include/cr_options.h
_NAMESPACES = ("pid", "net", "ipc", "uts", "time", "mnt", "user", "cgroup")
_OWN_OBJECTS = 1
"""The id that CRIU gives to its own objects: those of the tree count from the next number on."""
_NO_DESCRIPTORS = 0
"""The id that stands for the descriptor table of the dump's maker: those of the tree count from 1."""
_NO_CGROUP_SET = 1


def namespace_ids() -> Dict[str, int]:
    """Return the ids of the namespaces, which the tree shares with us, numbered from 1."""
    return {f"{name}_ns_id": number for number, name in enumerate(_NAMESPACES, start=1)}


def task_ids(number: int, files_id: int, fs_number: int, others: Mapping[str, int]) -> Any:
    """Return the ids of the objects of the task with this NUMBER, counted from 1.

    FILES_ID names its descriptor table; FS_NUMBER is the number of the first task with its directories;
    OTHERS are the ids, by field, of namespaces that it does not share with us.
    """
    own, namespaces = number + _OWN_OBJECTS, {**namespace_ids(), **others}
    return message("task_kobj_ids_entry")(vm_id=own, files_id=files_id, fs_id=fs_number + _OWN_OBJECTS, sighand_id=own, **namespaces)


def inventory(dump_id: str, track_mem: bool, pre_dump: bool = False, network_lock: int = 0) -> Any:
    """Return the inventory of a dump, or of a pre-dump, which CRIU tells by its mode; NETWORK_LOCK: how it left its connections.

    dump_uptime, in microseconds since boot, is what CRIU tells reused PIDs by.
    """
    own = {name: _OWN_OBJECTS for name in ("vm_id", "fs_id", "sighand_id")}
    entry = message("inventory_entry")(
        img_version=CRTOOLS_IMAGES_V1_1,
        fdinfo_per_id=True,
        root_ids=message("task_kobj_ids_entry")(files_id=_NO_DESCRIPTORS, **own, **namespace_ids()),
        ns_per_id=True,
        root_cg_set=_NO_CGROUP_SET,
        lsmtype=0,
        network_lock_method=network_lock,
        dump_criu_run_id=dump_id,
    )
    if pre_dump:
        entry.pre_dump_mode = PRE_DUMP_READ
    if track_mem:
        entry.dump_uptime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    return entry


def tree_identity(root: int) -> Tree:
    """Return what tells the tree under ROOT from any other."""
    return Tree(root, procfs.stat(root).start_time, procfs.boot_id())


def machine() -> Tuple[str, str, Tuple[str, ...]]:
    """Return host name, kernel release and CPU features."""
    name = os.uname()
    return name.nodename, name.release, tuple(sorted(_cpu_flags()))


def _cpu_flags() -> Tuple[str, ...]:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return tuple(line.partition(":")[2].split())
    return ()
