# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether this machine has what the engine needs, learned by trying, under CRIU's names of features and our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable
from collections.abc import Mapping, Sequence

from .errors import KernelError, UsageError
from .probes import files, memory, tasks

REQUIRED = "required"
"""No dump or no restore works without it."""
EXTRA = "extra"
"""Some trees cannot be dumped or restored without it, or only slowly."""
OPTIONAL = "optional"
"""One of several ways to the same end."""
UNUSED = "unused"
"""A feature of CRIU that this engine has no use for yet, whatever the kernel has."""

Probe = Callable[[], None]


@dataclass(frozen=True)
class Feature:
    """What a check found out about one feature."""

    name: str
    ok: bool
    category: str
    """REQUIRED, EXTRA, OPTIONAL or UNUSED."""
    detail: str
    """What it is for where it works; else why it does not."""


_PROBES: Mapping[str, tuple[str, Probe, str]] = {
    "ptrace_seize": (REQUIRED, tasks.ptrace_seize, "stops tasks and reads their registers and signals"),
    "proc_children": (REQUIRED, tasks.proc_children, "finds the tasks of a tree"),
    "ns_pid": (REQUIRED, tasks.ns_pid, "tells the PID of a task in its own namespace"),
    "proc_mem": (REQUIRED, memory.proc_mem, "reads and writes memory of a stopped task"),
    "process_vm_readv": (REQUIRED, memory.process_vm_readv, "reads memory of a task"),
    "pidfd_getfd": (REQUIRED, tasks.pidfd_getfd, "asks a descriptor of a task anything"),
    "kcmp": (REQUIRED, tasks.kcmp, "tells what tasks share"),
    "mnt_id": (REQUIRED, files.mnt_id, "tells the mount that a file is on"),
    "clone3_set_tid": (REQUIRED, tasks.clone3_set_tid, "restores a task under its PID"),
    "prctl_mm_map": (REQUIRED, tasks.prctl_mm_map, "restores where heap, stack, arguments and environment lie"),
    "mem_dirty_track": (EXTRA, memory.mem_dirty_track, "makes a dump with --track-mem hold only what changed"),
    "pagemap_scan": (EXTRA, memory.pagemap_scan, "finds filled pages in runs"),
    "pagemap_scan_guard_pages": (EXTRA, memory.guard_pages, "carries guard regions"),
    "uffd": (EXTRA, memory.uffd, "is what tracker uffd_wp works by"),
    "get_rseq_conf": (EXTRA, tasks.get_rseq_conf, "carries restartable sequences"),
    "seccomp_suspend": (EXTRA, tasks.seccomp_suspend, "makes system calls in a task that filters them"),
    "seccomp_filters": (EXTRA, tasks.seccomp_suspend, "carries seccomp filters"),
    "pidfd_store": (EXTRA, tasks.pidfd_getfd, "copies descriptors between processes"),
    "kcmp_epoll": (EXTRA, files.kcmp_epoll, "carries epoll instances"),
    "timerfd": (EXTRA, files.timerfd, "carries timerfds"),
    "fdinfo_lock": (EXTRA, files.fdinfo_lock, "carries file locks"),
    "map_files": (EXTRA, files.map_files, "carries mapped files that were unlinked"),
    "sock_diag": (EXTRA, files.sock_diag, "carries unix sockets"),
    "net_diag_raw": (EXTRA, files.raw_sockets, "carries raw sockets"),
    "fd_passing": (EXTRA, files.fd_passing, "looks at unix sockets without taking what is in them"),
    "tcp_repair": (EXTRA, files.tcp_repair_mode, "carries TCP connections"),
    "network_lock_nftables": (EXTRA, files.network_lock, "holds the packets of TCP connections back until they are restored"),
    "tcp_half_closed": (EXTRA, files.tcp_repair_mode, "carries half-closed TCP connections"),
    "ipv6_freebind": (OPTIONAL, files.ipv6_freebind, "carries sockets that are bound to addresses the machine lacks"),
    "uffd_wp": (OPTIONAL, memory.uffd_wp, "tracker uffd_wp: changed pages, without a stop"),
    "soft_dirty": (OPTIONAL, memory.soft_dirty, "tracker soft_dirty: changed pages, as CRIU finds them"),
    "compare": (OPTIONAL, memory.compare, "tracker compare: changed pages, by comparing them with the parent's"),
    "can_map_vdso": (OPTIONAL, tasks.can_map_vdso, "maps the vDSO where the task had it"),
    "aio_remap": (OPTIONAL, memory.aio_remap, "carries contexts of asynchronous I/O"),
    "memfd_hugetlb": (OPTIONAL, memory.memfd_hugetlb, "carries huge pages"),
    "timer_cr_ids": (OPTIONAL, tasks.timer_cr_ids, "makes POSIX timers with chosen ids"),
    "sockopt_buf_lock": (OPTIONAL, files.sockopt_buf_lock, "tells buffer sizes that were set from those that grew"),
}

_NO_NAMESPACES = "namespaces but those of mounts are neither dumped nor restored"
_NO_FILTERS = "the rules of packet filters are neither dumped nor restored"
_UNUSED: Mapping[str, str] = {
    "tun": "network devices are not carried",
    "tun_ns": "network devices are not carried",
    "userns": _NO_NAMESPACES,
    "cgroupns": _NO_NAMESPACES,
    "timens": _NO_NAMESPACES,
    "sk_ns": _NO_NAMESPACES,
    "nsid": _NO_NAMESPACES,
    "link_nsid": _NO_NAMESPACES,
    "external_net_ns": _NO_NAMESPACES,
    "newifindex": _NO_NAMESPACES,
    "move_mount_set_group": "mounts are copied from those of the machine",
    "autofs": "mounts are copied from those of the machine",
    "openat2": "no path of the images is walked",
    "loginuid": "the audit login uid is left to the kernel",
    "apparmor_stacking": "security labels are left to the kernel",
    "compat_cr": "32-bit tasks are not carried",
    "uffd-noncoop": "lazy-pages is not supported yet",
    "sk_unix_file": "a unix socket is found by its path",
    "nftables": _NO_FILTERS,
    "has_ipt_legacy": _NO_FILTERS,
    "overlayfs_maps": "a mapped file is found by its path",
    "breakpoints": "hardware breakpoints are not used",
}

NAMES: tuple[str, ...] = (*_PROBES, *_UNUSED)
"""All features that can be asked for: CRIU's --feature names and ours."""


def check(names: Sequence[str] = ()) -> list[Feature]:
    """Try the features NAMES, or all of them, on processes of our own. Takes some 50 ms for all.

    Raises UsageError for a name that is not known.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"feature {name} is unknown; the features are {', '.join(sorted(NAMES))}")
    return [_feature(name) for name in names or NAMES]


def _feature(name: str) -> Feature:
    if name in _UNUSED:
        return Feature(name, False, UNUSED, _UNUSED[name])
    category, probe, purpose = _PROBES[name]
    try:
        probe()
    except (OSError, KernelError) as error:
        return Feature(name, False, category, str(error))
    return Feature(name, True, category, purpose)
