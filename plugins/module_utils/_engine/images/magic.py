# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of CRIU's images: file name, magic number and messages of each (criu/image-desc.c, criu/include/magic.h, CRIU 4.2)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from collections.abc import Mapping

from ..errors import ImagesError

IMG_COMMON_MAGIC = 0x54564319
"""Starts every image of format v1.1, before the magic of its kind, except the inventory and the service files."""
IMG_SERVICE_MAGIC = 0x55105940
"""Stands in its place in service files: statistics and the cache of inode paths."""
IMAGES_V1_1 = 2
"""`img_version` in the inventory of a v1.1 dump."""
SUFFIX = ".img"

_NO_ID, _DECIMAL, _HEX, _WORD = "", r"\d+", r"[0-9a-f]+", r"[a-z]+"


@dataclass(frozen=True)
class Kind:
    """One kind of image file."""

    name: str
    """The file's name without its id and ".img"."""
    magic: int
    message: str
    """The message of its first entry."""
    id: str = _NO_ID
    """A pattern of the id that follows the name after a "-"; empty for one file a dump."""
    then: str = ""
    """The message of all further entries, where it is another one."""
    common: int | None = IMG_COMMON_MAGIC
    suffix: str = SUFFIX

    @property
    def head(self) -> bytes:
        """What the file starts with."""
        return (b"" if self.common is None else struct.pack("<I", self.common)) + struct.pack("<I", self.magic)

    def message_at(self, index: int) -> str:
        """Return the name of the message of entry INDEX, counted from 0."""
        return self.then if index and self.then else self.message


KINDS = (
    Kind("inventory", 0x58313116, "inventory_entry", common=None),
    Kind("pstree", 0x50273030, "pstree_entry"),
    Kind("core", 0x55053847, "core_entry", _DECIMAL),
    Kind("ids", 0x54432030, "task_kobj_ids_entry", _DECIMAL),
    Kind("creds", 0x54023547, "creds_entry", _DECIMAL),
    Kind("fs", 0x51403912, "fs_entry", _DECIMAL),
    Kind("mm", 0x57492820, "mm_entry", _DECIMAL),
    Kind("vmas", 0x54123737, "vma_entry", _DECIMAL),
    Kind("pagemap", 0x56084025, "pagemap_head", _DECIMAL, then="pagemap_entry"),
    Kind("pagemap-shmem", 0x56084025, "pagemap_head", _DECIMAL, then="pagemap_entry"),
    Kind("sent-pagemap", 0x56084025, "pagemap_head", _DECIMAL, then="pagemap_entry"),  # ours: what was sent to a page server
    Kind("digests-shmem", 0x56084025, "pagemap_head", _DECIMAL, then="pagemap_entry"),  # ours: resources/memory/digests.py
    Kind("sigacts", 0x55344201, "sa_entry", _DECIMAL),
    Kind("itimers", 0x57464056, "itimer_entry", _DECIMAL),
    Kind("posix-timers", 0x52603957, "posix_timer_entry", _DECIMAL),
    Kind("rlimit", 0x57113925, "rlimit_entry", _DECIMAL),
    Kind("signal-s", 0x59255647, "siginfo_entry", _DECIMAL),
    Kind("signal-p", 0x59255647, "siginfo_entry", _DECIMAL),
    Kind("seccomp", 0x64413049, "seccomp_entry"),
    Kind("fdinfo", 0x56213732, "fdinfo_entry", _DECIMAL),
    Kind("files", 0x56303138, "file_entry"),
    Kind("reg-files", 0x50363636, "reg_file_entry"),
    Kind("ext-files", 0x59255641, "ext_file_entry"),
    Kind("ns-files", 0x61394011, "ns_file_entry"),
    Kind("pipes", 0x56513555, "pipe_entry"),
    Kind("pipes-data", 0x56453709, "pipe_data_entry"),
    Kind("fifo", 0x58364939, "fifo_entry"),
    Kind("fifo-data", 0x59333054, "pipe_data_entry"),
    Kind("eventfd", 0x44523722, "eventfd_file_entry"),
    Kind("eventpoll", 0x45023858, "eventpoll_file_entry"),
    Kind("eventpoll-tfd", 0x44433746, "eventpoll_tfd_entry"),
    Kind("signalfd", 0x57323820, "signalfd_entry"),
    Kind("timerfd", 0x50493712, "timerfd_entry"),
    Kind("inotify", 0x48424431, "inotify_file_entry"),
    Kind("inotify-wd", 0x54562009, "inotify_wd_entry"),
    Kind("fanotify", 0x55096122, "fanotify_file_entry"),
    Kind("fanotify-mark", 0x56506035, "fanotify_mark_entry"),
    Kind("pidfd", 0x54435556, "pidfd_entry"),
    Kind("memfd", 0x48453499, "memfd_inode_entry"),
    Kind("bpfmap-file", 0x57506142, "bpfmap_file_entry"),
    Kind("bpfmap-data", 0x64324033, "bpfmap_data_entry"),
    Kind("tty", 0x59433025, "tty_file_entry"),
    Kind("tty-info", 0x59453036, "tty_info_entry"),
    Kind("tty-data", 0x59413026, "tty_data_entry"),
    Kind("remap-fpath", 0x59133954, "remap_file_path_entry"),
    Kind("ghost-file", 0x52583605, "ghost_file_entry", _HEX, then="ghost_chunk_entry"),
    Kind("filelocks", 0x54323616, "file_lock_entry"),
    Kind("unixsk", 0x54373943, "unix_sk_entry"),
    Kind("inetsk", 0x56443851, "inet_sk_entry"),
    Kind("packetsk", 0x60454618, "packet_sock_entry"),
    Kind("netlinksk", 0x58005614, "netlink_sk_entry"),
    Kind("sk-queues", 0x56264026, "sk_packet_entry"),
    Kind("tcp-stream", 0x51465506, "tcp_stream_entry", _HEX),
    Kind("tunfile", 0x57143751, "tunfile_entry"),
    Kind("utsns", 0x54473203, "utsns_entry", _DECIMAL),
    Kind("userns", 0x55474906, "userns_entry", _DECIMAL),
    Kind("timens", 0x43114433, "timens_entry", _DECIMAL),
    Kind("pidns", 0x61157326, "pidns_entry", _DECIMAL),
    Kind("mountpoints", 0x55563928, "mnt_entry", _DECIMAL),
    Kind("netdev", 0x57373951, "net_device_entry", _DECIMAL),
    Kind("netns", 0x55933752, "netns_entry", _DECIMAL),
    Kind("ipcns-var", 0x53115007, "ipc_var_entry", _DECIMAL),
    Kind("ipcns-shm", 0x46283044, "ipc_shm_entry", _DECIMAL),
    Kind("ipcns-msg", 0x55453737, "ipc_msg_entry", _DECIMAL),
    Kind("ipcns-sem", 0x59573019, "ipc_sem_entry", _DECIMAL),
    Kind("cgroup", 0x59383330, "cgroup_entry"),
    Kind("cpuinfo", 0x61404013, "cpuinfo_entry"),
    Kind("autofs", 0x49353943, "autofs_entry", _DECIMAL),
    Kind("binfmt-misc", 0x67343323, "binfmt_misc_entry"),
    Kind("apparmor", 0x59423047, "apparmor_entry"),
    Kind("stats", 0x57093306, "stats_entry", _WORD, common=IMG_SERVICE_MAGIC, suffix=""),
    Kind("irmap-cache", 0x57004059, "irmap_cache_entry", common=IMG_SERVICE_MAGIC, suffix=""),
)


def kind_of(name: str) -> Kind:
    """Return the kind of the image called NAME, its file name without ".img" ("core-123", "files", "stats-dump").

    Raises ImagesError when CRIU has no such image of messages; pages-N and the raw images of network tools are none.
    """
    kind = find_kind(name)
    if kind is None:
        raise ImagesError(f"{name} is not the name of an image that CRIU's format has; check the spelling of the name")
    return kind


def find_kind(name: str) -> Kind | None:
    """Return the kind of the image called NAME, None when there is no such kind."""
    by_name = _by_name()
    whole = by_name.get(name)
    if whole is not None and not whole.id:
        return whole
    bare, _dash, number = name.rpartition("-")
    kind = by_name.get(bare)
    return kind if kind is not None and kind.id and re.fullmatch(kind.id, number) else None


@cache
def _by_name() -> Mapping[str, Kind]:
    return {kind.name: kind for kind in KINDS}
