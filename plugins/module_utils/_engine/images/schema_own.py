# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What CRIU's images have no field for, as fields of our own in CRIU's messages.

Their numbers are far above CRIU's, so that CRIU and crit pass over them; an image without them restores with the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping

from .field import Fields, optional, repeated, required

_OWN = 10001

EXTENSIONS: Mapping[str, Fields] = {
    "task_core_entry": optional("stillframe_task_entry", stillframe=_OWN),
    "thread_core_entry": optional("stillframe_thread_entry", stillframe=_OWN),
    "eventpoll_tfd_entry": optional("uint32", stillframe_file=_OWN),
    "inet_sk_entry": optional("stillframe_inet_entry", stillframe=_OWN),
    "mnt_entry": optional("stillframe_mount_entry", stillframe=_OWN),
    "netlink_sk_entry": optional("stillframe_netlink_entry", stillframe=_OWN),
    "packet_sock_entry": optional("stillframe_packet_entry", stillframe=_OWN),
    "pagemap_entry": optional("bytes", stillframe_whole=_OWN, stillframe_pages=_OWN + 1),
    "pagemap_head": optional("string", stillframe_algorithm=_OWN),
    "reg_file_entry": optional("bool", stillframe_outside=_OWN),
    "sk_packet_entry": optional("stillframe_sender", stillframe=_OWN),
    "tty_data_entry": optional("stillframe_tty_data", stillframe=_OWN),
    "tty_info_entry": optional("stillframe_tty_entry", stillframe=_OWN),
    "unix_sk_entry": optional("stillframe_unix_entry", stillframe=_OWN),
    "vma_entry": optional("stillframe_vma_entry", stillframe=_OWN),
}
"""Fields that are added to CRIU's messages."""

MESSAGES: Mapping[str, Fields] = {
    "stillframe_task_entry": optional("uint32", coredump_filter=1, exit_signal=2, thp_disable=3, mce_kill=4, tsc=5, memory_merge=6, mdwe=7)
    + optional("uint64", xcomp_permissions=8)
    + optional("uint32", lock_future=9),
    "stillframe_inet_entry": optional("bool", freebind_once=1)
    + optional("string", congestion=2)
    + optional("int32", user_timeout=3, defer_accept=4, fastopen=5, linger2=6, syncnt=7, notsent_lowat=8, thin_linear_timeouts=9)
    + optional("int32", fastopen_connect=10, inq=11, save_syn=12)
    + optional("uint32", send_coverage=13, receive_coverage=14, checksum=15)
    + repeated("stillframe_option_entry", options=16)
    + repeated("stillframe_membership_entry", memberships=17),
    "stillframe_option_entry": required("int32", level=1, option=2, value=3),
    "stillframe_membership_entry": required("string", interface=1)
    + required("bytes", group=2)
    + required("uint32", mode=3)
    + repeated("bytes", sources=4),
    "stillframe_thread_entry": optional("bytes", affinity=1) + optional("uint64", timer_slack=2) + optional("uint32", ioprio=3)
    + optional("stillframe_numa_policy", numa=4),
    "stillframe_mount_entry": optional("string", origin=1, path=2, content=3)
    + optional("bool", whole=4)
    + repeated("string", removed=5)
    + repeated("stillframe_directory_entry", parents=6),
    "stillframe_directory_entry": required("uint32", mode=1, uid=2, gid=3),
    "stillframe_unix_entry": repeated("uint32", waiting=1),
    "stillframe_netlink_entry": optional("uint32", type=1)
    + optional("bool", pktinfo=2, broadcast_error=3, no_enobufs=4, listen_all_nsid=5, cap_ack=6, ext_ack=7, get_strict_chk=8),
    "stillframe_packet_entry": optional("string", device=1) + optional("bool", qdisc_bypass=2, ignore_outgoing=3),
    "stillframe_vma_entry": optional("bool", sealed=1) + optional("string", name=2) + optional("stillframe_numa_policy", numa=3)
    + optional("bool", lock_on_fault=4),
    "stillframe_numa_policy": required("uint32", mode=1) + required("bytes", nodes=2),
    "stillframe_sender": required("uint32", pid=1, uid=2, gid=3),
    "stillframe_tty_data": repeated("uint32", lines=1) + optional("uint32", late=2),
    "stillframe_tty_entry": optional("bool", unused=1) + optional("uint32", mode=2, uid=3, gid=4, stopped=5),
}

ENUMS: Mapping[str, Mapping[str, int]] = {}
DEFAULTS: Mapping[str, str] = {}
