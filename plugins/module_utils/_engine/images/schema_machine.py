# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's messages for what belongs to the machine: namespaces, mounts, network devices, control groups, CPU, statistics.

Facts are those of images/*.proto of CRIU 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping

from .field import Fields, optional, repeated, required

MESSAGES: Mapping[str, Fields] = {
    # images/stats.proto
    "dump_stats_entry": (
        required("uint32", freezing_time=1, frozen_time=2, memdump_time=3, memwrite_time=4)
        + required("uint64", pages_scanned=5, pages_skipped_parent=6, pages_written=7)
        + optional("uint32", irmap_resolve=8)
        + required("uint64", pages_lazy=9)
        + optional(
            "uint64",
            page_pipes=10, page_pipe_bufs=11, shpages_scanned=12, shpages_skipped_parent=13, shpages_written=14,
        )
    ),
    "restore_stats_entry": (
        required("uint64", pages_compared=1, pages_skipped_cow=2)
        + required("uint32", forking_time=3, restore_time=4)
        + optional("uint64", pages_restored=5)
    ),
    "stats_entry": (
        optional("dump_stats_entry", dump=1)
        + optional("restore_stats_entry", restore=2)
    ),
    # images/cpuinfo.proto
    "cpuinfo_x86_entry": (
        required("cpuinfo_x86_entry.vendor", vendor_id=1)
        + required("uint32", cpu_family=2, model=3, stepping=4, capability_ver=5)
        + repeated("uint32", capability=6)
        + optional("string", model_id=7)
        + optional("uint64", xfeatures_mask=8)
        + optional("uint32", xsave_size=9, xsave_size_max=10)
    ),
    "cpuinfo_ppc64_entry": (
        required("cpuinfo_ppc64_entry.endianness", endian=1)
        + repeated("uint64", hwcap=2)
    ),
    "cpuinfo_s390_entry": repeated("uint64", hwcap=2),
    "cpuinfo_entry": (
        repeated("cpuinfo_x86_entry", x86_entry=1)
        + repeated("cpuinfo_ppc64_entry", ppc64_entry=2)
        + repeated("cpuinfo_s390_entry", s390_entry=3)
    ),
    # images/cgroup.proto
    "cgroup_perms": required("uint32", mode=1, uid=2, gid=3),
    "cgroup_prop_entry": (
        required("string", name=1, value=2)
        + optional("cgroup_perms", perms=3)
    ),
    "cgroup_dir_entry": (
        required("string", dir_name=1)
        + repeated("cgroup_dir_entry", children=2)
        + repeated("cgroup_prop_entry", properties=3)
        + optional("cgroup_perms", dir_perms=4)
    ),
    "cg_controller_entry": (
        repeated("string", cnames=1)
        + repeated("cgroup_dir_entry", dirs=2)
        + optional("bool", is_threaded=3)
    ),
    "cg_member_entry": (
        required("string", name=1, path=2)
        + optional("uint32", cgns_prefix=3)
    ),
    "cg_set_entry": (
        required("uint32", id=1)
        + repeated("cg_member_entry", ctls=2)
    ),
    "cgroup_entry": (
        repeated("cg_set_entry", sets=1)
        + repeated("cg_controller_entry", controllers=2)
    ),
    # images/mnt.proto
    "mnt_entry": (
        required("uint32", fstype=1, mnt_id=2, root_dev=3, parent_mnt_id=4, flags=5)
        + required("string", root=6, mountpoint=7, source=8, options=9)
        + optional("uint32", shared_id=10, master_id=11)
        + optional("bool", with_plugin=12, ext_mount=13)
        + optional("string", fsname=14)
        + optional("bool", internal_sharing=15, deleted=16)
        + optional("uint32", sb_flags=17)
        + optional("string", ext_key=18)
    ),
    # images/userns.proto
    "uid_gid_extent": required("uint32", first=1, lower_first=2, count=3),
    "userns_entry": repeated("uid_gid_extent", uid_map=1, gid_map=2),
    # images/utsns.proto
    "utsns_entry": required("string", nodename=1, domainname=2),
    # images/timens.proto
    "timespec": required("uint64", tv_sec=1, tv_nsec=2),
    "timens_entry": required("timespec", monotonic=1, boottime=2),
    # images/pidns.proto
    "pidns_entry": optional("string", ext_key=1),
    # images/apparmor.proto
    "aa_policy": (
        required("string", name=1)
        + required("bytes", blob=2)
    ),
    "aa_namespace": (
        required("string", name=1)
        + repeated("aa_policy", policies=2)
        + repeated("aa_namespace", namespaces=3)
    ),
    "apparmor_entry": repeated("aa_namespace", namespaces=1),
    # images/autofs.proto
    "autofs_entry": (
        required("int32", fd=1, pgrp=2, timeout=3, minproto=4, maxproto=5, mode=6)
        + optional("int32", uid=7, gid=8, read_fd=9)
    ),
    # images/binfmt-misc.proto
    "binfmt_misc_entry": (
        required("string", name=1)
        + required("bool", enabled=2)
        + required("string", interpreter=3)
        + optional("string", flags=4, extension=5, magic=6, mask=7)
        + optional("int32", offset=8)
    ),
    # images/netdev.proto
    "net_device_entry": (
        required("nd_type", type=1)
        + required("uint32", ifindex=2, mtu=3, flags=4)
        + required("string", name=5)
        + optional("tun_link_entry", tun=6)
        + optional("bytes", address=7)
        + repeated("int32", conf=8)
        + repeated("sysctl_entry", conf4=9, conf6=10)
        + optional("macvlan_link_entry", macvlan=11)
        + optional("uint32", peer_ifindex=12, peer_nsid=13, master=14)
        + optional("sit_entry", sit=15)
    ),
    "netns_id": (
        required("uint32", target_ns_id=1)
        + required("int32", netnsid_value=2)
    ),
    "netns_entry": (
        repeated("int32", def_conf=1, all_conf=2)
        + repeated("sysctl_entry", def_conf4=3, all_conf4=4, def_conf6=5, all_conf6=6)
        + repeated("netns_id", nsids=7)
        + optional("string", ext_key=8)
        + repeated("sysctl_entry", unix_conf=9, ipv4_sysctl=10)
    ),
    # images/macvlan.proto
    "macvlan_link_entry": (
        required("uint32", mode=1)
        + optional("uint32", flags=2)
    ),
    # images/sit.proto
    "sit_entry": (
        optional("uint32", link=1)
        + repeated("uint32", local=2, remote=3)
        + optional("uint32", ttl=4, tos=5)
        + optional("bool", pmtudisc=6)
        + optional("uint32", proto=7, flags=8, encap_type=9, encap_flags=10, encap_sport=11, encap_dport=12, rd_prefixlen=13)
        + repeated("uint32", rd_prefix=14)
        + optional("uint32", relay_prefixlen=15)
        + repeated("uint32", relay_prefix=16)
    ),
    # images/sysctl.proto
    "sysctl_entry": (
        required("SysctlType", type=1)
        + optional("int32", iarg=2)
        + optional("string", sarg=3)
    ),
}

ENUMS: Mapping[str, Mapping[str, int]] = {
    "cpuinfo_x86_entry.vendor": {"UNKNOWN": 0, "INTEL": 1, "AMD": 2},
    "cpuinfo_ppc64_entry.endianness": {"BIGENDIAN": 0, "LITTLEENDIAN": 1},
    "fstype": {
        "UNSUPPORTED": 0, "PROC": 1, "SYSFS": 2, "DEVTMPFS": 3, "BINFMT_MISC": 4, "TMPFS": 5, "DEVPTS": 6, "SIMFS": 7,
        "PSTORE": 8, "SECURITYFS": 9, "FUSECTL": 10, "DEBUGFS": 11, "CGROUP": 12, "AUFS": 13, "MQUEUE": 14, "FUSE": 15,
        "AUTO": 16, "OVERLAYFS": 17, "AUTOFS": 18, "TRACEFS": 19, "CGROUP2": 23,
    },
    "nd_type": {"LOOPBACK": 1, "VETH": 2, "TUN": 3, "EXTLINK": 4, "VENET": 5, "BRIDGE": 6, "MACVLAN": 7, "SIT": 8},
    "SysctlType": {"CTL_STR": 5, "CTL_32": 6},
}

DEFAULTS: Mapping[str, str] = {}
