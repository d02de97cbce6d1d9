# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows and columns of the table that tests/interop/table.py makes: kinds of state, and who restores them from whose dump."""

from __future__ import annotations

CRIT, OURS, THEIRS, OUR_CHAIN, THEIR_CHAIN = "crit shows ours", "ours by CRIU", "CRIU's by us", "our chain by CRIU", "CRIU's chain by us"
DIRECTIONS = (CRIT, OURS, THEIRS, OUR_CHAIN, THEIR_CHAIN)
BOTH = (OURS, THEIRS)

GROUPS: dict[str, tuple[str, ...]] = {
    "tree": (
        "children, orphans", "subreapers", "zombies", "sessions, process groups", "stopped tasks", "threads",
        "shared descriptor tables, directories",
        "umask, niceness, scheduling, oom score", "limits", "cgroup membership (v1)", "cgroup membership (v2)",
    ),
    "memory": (
        "private memory", "copied pages of files", "shared files", "shared anonymous", "memfd", "sealed memfd",
        "stacks that grow, PROT_NONE, mlock, madvise", "pages shared with the parent", "huge pages", "guard regions", "asynchronous I/O",
        "vDSO of another kernel build", "System V shared memory", "System V semaphores, messages", "MAP_DROPPABLE",
    ),
    "registers": ("general, vector and x87 registers", "restartable sequences"),
    "signals, time": (
        "dispositions, alternate stacks", "pending signals", "interval timers", "POSIX timers", "timerfd",
        "waits in futex, epoll_wait, read", "waits in poll, nanosleep",
    ),
    "credentials": ("users and groups", "capabilities, securebits, no_new_privs", "seccomp"),
    "files": (
        "regular files, directories", "character devices", "unlinked files", "link_remap", "pipes", "FIFOs", "eventfd", "signalfd",
        "epoll", "inotify", "fanotify", "pidfd", "locks, leases", "terminals", "descriptors shared over fork",
    ),
    "sockets": (
        "unix: pairs", "unix: named and listening", "unix: clients that wait", "unix: descriptors and credentials in flight",
        "TCP: listening", "TCP: established", "TCP: being opened", "TCP: closing, closed", "UDP", "UDP-lite, raw, packet", "netlink",
    ),
    "outside": ("external resources", "mount namespace of a sandboxed service", "host name of its own"),
}  # fmt: skip
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)

IMAGES: dict[str, tuple[str, ...]] = {
    "pstree": ("zombies", "sessions, process groups", "children, orphans"),
    "core": (
        "stopped tasks", "threads", "subreapers", "limits", "umask, niceness, scheduling, oom score", "POSIX timers", "interval timers",
    ),
    "ids": ("shared descriptor tables, directories", "descriptors shared over fork"),
    "cgroup": ("cgroup membership (v1)", "cgroup membership (v2)"),
    "seccomp": ("seccomp",),
    "timerfd": ("timerfd",),
    "reg-files": ("regular files, directories", "character devices", "external resources"),
    "ghost-file": ("unlinked files",),
    "remap-fpath": ("unlinked files", "link_remap"),
    "pipes": ("pipes",),
    "pipes-data": ("pipes",),
    "fifo": ("FIFOs",),
    "fifo-data": ("FIFOs",),
    "eventfd": ("eventfd",),
    "signalfd": ("signalfd",),
    "eventpoll": ("epoll",),
    "inotify": ("inotify",),
    "fanotify": ("fanotify",),
    "files": ("pidfd", "UDP"),
    "filelocks": ("locks, leases",),
    "unixsk": ("unix: pairs", "unix: named and listening", "unix: clients that wait"),
    "sk-queues": ("unix: descriptors and credentials in flight",),
    "inetsk": ("TCP: listening", "UDP", "UDP-lite, raw, packet"),
    "packetsk": ("UDP-lite, raw, packet",),
    "tcp-stream": ("TCP: established", "TCP: being opened", "TCP: closing, closed"),
    "tty": ("terminals",),
    "mm": ("guard regions", "asynchronous I/O", "huge pages", "vDSO of another kernel build"),
    "pagemap": ("pages shared with the parent",),
    "netlinksk": ("netlink",),
    "utsns": ("host name of its own",),
}  # fmt: skip
"""What is in each kind of image."""

_MEMORY_ONLY = "an incremental dump leaves out memory only: all else is in each dump whole, as in a dump without a parent"
_IPC = "CRIU carries System V objects with an IPC namespace of the tree's own, which is refused here"
_UNKNOWN = "CRIU does not know it"
_WAITS = "CRIU has them end with EINTR in what it dumps"
_MOUNTS = "recorded as what differs from the caller's namespace, which CRIU has no image for; its own of all mounts need a container"
_CHAINS = "CRIU makes chains on a kernel with soft-dirty bits only, such as those of tests/lab, where they hold plain and shared memory"
_VDSO = "a dump holds all of it, also one on top of another"
NOTES: dict[tuple[str, str], str] = {
    **{(f"System V {what}", direction): _IPC for what in ("shared memory", "semaphores, messages") for direction in DIRECTIONS},
    **{("MAP_DROPPABLE", direction): _UNKNOWN for direction in DIRECTIONS},
    ("waits in poll, nanosleep", THEIRS): _WAITS,
    **{(kind, THEIR_CHAIN): _CHAINS for kind in (
        "stacks that grow, PROT_NONE, mlock, madvise", "pages shared with the parent", "huge pages", "guard regions", "asynchronous I/O",
    )},
    ("shared files", THEIR_CHAIN): "no dump holds the content of a file that is there",
    **{("vDSO of another kernel build", direction): _VDSO for direction in (OUR_CHAIN, THEIR_CHAIN)},
    **{("mount namespace of a sandboxed service", direction): _MOUNTS for direction in DIRECTIONS},
}  # fmt: skip
"""Why a kind has no test in a direction."""
CHAINS = _MEMORY_ONLY
"""Why a kind other than memory has none of a chain."""
