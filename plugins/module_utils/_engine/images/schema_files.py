# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's messages for descriptors and the open files behind them. Facts are those of images/*.proto of CRIU 4.2."""

from __future__ import annotations

from collections.abc import Mapping

from .field import Fields, optional, repeated, required

MESSAGES: Mapping[str, Fields] = {
    # images/fdinfo.proto
    "fdinfo_entry": (
        required("uint32", id=1, flags=2)
        + required("fd_types", type=3)
        + required("uint32", fd=4)
        + optional("string", xattr_security_selinux=5)
    ),
    "file_entry": (
        required("fd_types", type=1)
        + required("uint32", id=2)
        + optional("reg_file_entry", reg=3)
        + optional("inet_sk_entry", isk=4)
        + optional("ns_file_entry", nsf=5)
        + optional("packet_sock_entry", psk=6)
        + optional("netlink_sk_entry", nlsk=7)
        + optional("eventfd_file_entry", efd=8)
        + optional("eventpoll_file_entry", epfd=9)
        + optional("signalfd_entry", sgfd=10)
        + optional("tunfile_entry", tunf=11)
        + optional("timerfd_entry", tfd=12)
        + optional("inotify_file_entry", ify=13)
        + optional("fanotify_file_entry", ffy=14)
        + optional("ext_file_entry", ext=15)
        + optional("unix_sk_entry", usk=16)
        + optional("fifo_entry", fifo=17)
        + optional("pipe_entry", pipe=18)
        + optional("tty_file_entry", tty=19)
        + optional("memfd_file_entry", memfd=20)
        + optional("bpfmap_file_entry", bpf=21)
        + optional("pidfd_entry", pidfd=22)
    ),
    # images/fown.proto
    "fown_entry": required("uint32", uid=1, euid=2, signum=3, pid_type=4, pid=5),
    # images/regfile.proto
    "reg_file_entry": (
        required("uint32", id=1, flags=2)
        + required("uint64", pos=3)
        + required("fown_entry", fown=5)
        + required("string", name=6)
        + optional("sint32", mnt_id=7)
        + optional("uint64", size=8)
        + optional("bool", ext=9)
        + optional("uint32", mode=10)
        + repeated("uint32", build_id=11)
        + optional("uint32", checksum=12, checksum_config=13, checksum_parameter=14)
    ),
    # images/fs.proto
    "fs_entry": (
        required("uint32", cwd_id=1, root_id=2)
        + optional("uint32", umask=3)
    ),
    # images/pipe.proto
    "pipe_entry": (
        required("uint32", id=1, pipe_id=2, flags=3)
        + required("fown_entry", fown=4)
    ),
    # images/fifo.proto
    "fifo_entry": (
        required("uint32", id=1, pipe_id=2)
        + optional("uint32", regf_id=3)
    ),
    # images/pipe-data.proto
    "pipe_data_entry": (
        required("uint32", pipe_id=1, bytes=2)
        + optional("uint32", size=3)
    ),
    # images/eventfd.proto
    "eventfd_file_entry": (
        required("uint32", id=1, flags=2)
        + required("fown_entry", fown=3)
        + required("uint64", counter=4)
    ),
    # images/eventpoll.proto
    "eventpoll_tfd_entry": (
        required("uint32", id=1, tfd=2, events=3)
        + required("uint64", data=4)
        + optional("uint32", dev=5)
        + optional("uint64", inode=6, pos=7)
    ),
    "eventpoll_file_entry": (
        required("uint32", id=1, flags=2)
        + required("fown_entry", fown=3)
        + repeated("eventpoll_tfd_entry", tfd=4)
    ),
    # images/timerfd.proto
    "timerfd_entry": (
        required("uint32", id=1, flags=2)
        + required("fown_entry", fown=3)
        + required("uint32", clockid=4)
        + required("uint64", ticks=5)
        + required("uint32", settime_flags=6)
        + required("uint64", vsec=7, vnsec=8, isec=9, insec=10)
    ),
    # images/signalfd.proto
    "signalfd_entry": (
        required("uint32", id=1, flags=2)
        + required("fown_entry", fown=3)
        + required("uint64", sigmask=4)
    ),
    # images/fsnotify.proto
    "inotify_wd_entry": (
        required("uint32", id=1)
        + required("uint64", i_ino=2)
        + required("uint32", mask=3, ignored_mask=4, s_dev=5, wd=6)
        + required("fh_entry", f_handle=7)
    ),
    "inotify_file_entry": (
        required("uint32", id=1, flags=2)
        + required("fown_entry", fown=4)
        + repeated("inotify_wd_entry", wd=5)
    ),
    "fanotify_inode_mark_entry": (
        required("uint64", i_ino=1)
        + required("fh_entry", f_handle=2)
    ),
    "fanotify_mount_mark_entry": (
        required("uint32", mnt_id=1)
        + optional("string", path=2)
    ),
    "fanotify_mark_entry": (
        required("uint32", id=1)
        + required("mark_type", type=2)
        + required("uint32", mflags=3, mask=4, ignored_mask=5, s_dev=6)
        + optional("fanotify_inode_mark_entry", ie=7)
        + optional("fanotify_mount_mark_entry", me=8)
    ),
    "fanotify_file_entry": (
        required("uint32", id=1, flags=2)
        + required("fown_entry", fown=3)
        + required("uint32", faflags=4, evflags=5)
        + repeated("fanotify_mark_entry", mark=6)
    ),
    # images/fh.proto
    "fh_entry": (
        required("uint32", bytes=1, type=2)
        + repeated("uint64", handle=3)
        + optional("string", path=4)
        + optional("uint32", mnt_id=5)
    ),
    "irmap_cache_entry": (
        required("uint32", dev=1)
        + required("uint64", inode=2)
        + required("string", path=3)
    ),
    # images/memfd.proto
    "memfd_file_entry": (
        required("uint32", id=1, flags=2)
        + required("uint64", pos=3)
        + required("fown_entry", fown=4)
        + required("uint32", inode_id=5)
    ),
    "memfd_inode_entry": (
        required("string", name=1)
        + required("uint32", uid=2, gid=3)
        + required("uint64", size=4)
        + required("uint32", shmid=5, seals=6)
        + required("uint64", inode_id=7)
        + optional("uint32", hugetlb_flag=8, mode=9)
    ),
    # images/pidfd.proto
    "pidfd_entry": (
        required("uint32", id=1, ino=2, flags=3)
        + required("int32", nspid=4)
        + required("fown_entry", fown=5)
    ),
    # images/ext-file.proto
    "ext_file_entry": (
        required("uint32", id=1)
        + required("fown_entry", fown=5)
    ),
    # images/ns.proto
    "ns_file_entry": required("uint32", id=1, ns_id=2, ns_cflag=3, flags=4),
    # images/bpfmap-file.proto
    "bpfmap_file_entry": (
        required("uint32", id=1, flags=2)
        + required("uint64", pos=3)
        + required("fown_entry", fown=4)
        + required("uint32", map_type=5, key_size=6, value_size=7, map_id=8, max_entries=9, map_flags=10)
        + required("uint64", memlock=11)
        + required("bool", frozen=12)
        + required("string", map_name=13)
        + required("uint32", ifindex=14)
        + optional("sint32", mnt_id=15)
        + optional("uint64", map_extra=16)
    ),
    # images/bpfmap-data.proto
    "bpfmap_data_entry": required("uint32", map_id=1, keys_bytes=2, values_bytes=3, count=4),
    # images/tty.proto
    "winsize_entry": required("uint32", ws_row=1, ws_col=2, ws_xpixel=3, ws_ypixel=4),
    "termios_entry": (
        required("uint32", c_iflag=1, c_oflag=2, c_cflag=3, c_lflag=4, c_line=5, c_ispeed=6, c_ospeed=7)
        + repeated("uint32", c_cc=8)
    ),
    "tty_pty_entry": required("uint32", index=1),
    "tty_data_entry": (
        required("uint32", tty_id=1)
        + required("bytes", data=2)
    ),
    "tty_info_entry": (
        required("uint32", id=1)
        + required("TtyType", type=2)
        + required("bool", locked=3, exclusive=4, packet_mode=5)
        + required("uint32", sid=6, pgrp=7, rdev=8)
        + optional("termios_entry", termios=9, termios_locked=10)
        + optional("winsize_entry", winsize=11)
        + optional("tty_pty_entry", pty=12)
        + optional("uint32", dev=13, uid=14, gid=15)
    ),
    "tty_file_entry": (
        required("uint32", id=1, tty_info_id=2, flags=3)
        + required("fown_entry", fown=4)
        + optional("uint32", regf_id=6)
    ),
    # images/ghost-file.proto
    "ghost_file_entry": (
        required("uint32", uid=1, gid=2, mode=3)
        + optional("uint32", dev=4)
        + optional("uint64", ino=5)
        + optional("uint32", rdev=6)
        + optional("timeval", atim=7, mtim=8)
        + optional("bool", chunks=9)
        + optional("uint64", size=10)
        + optional("string", symlnk_target=11)
    ),
    "ghost_chunk_entry": required("uint64", len=1, off=2),
    # images/time.proto
    "timeval": required("uint64", tv_sec=1, tv_usec=2),
    # images/remap-file-path.proto
    "remap_file_path_entry": (
        required("uint32", orig_id=1, remap_id=2)
        + optional("remap_type", remap_type=3)
    ),
    # images/file-lock.proto
    "file_lock_entry": (
        required("uint32", flag=1, type=2)
        + required("int32", pid=3, fd=4)
        + required("int64", start=5, len=6)
    ),
}

ENUMS: Mapping[str, Mapping[str, int]] = {
    "fd_types": {
        "UND": 0, "REG": 1, "PIPE": 2, "FIFO": 3, "INETSK": 4, "UNIXSK": 5, "EVENTFD": 6, "EVENTPOLL": 7, "INOTIFY": 8,
        "SIGNALFD": 9, "PACKETSK": 10, "TTY": 11, "FANOTIFY": 12, "NETLINKSK": 13, "NS": 14, "TUNF": 15, "EXT": 16,
        "TIMERFD": 17, "MEMFD": 18, "BPFMAP": 19, "PIDFD": 20, "CTL_TTY": 65534, "AUTOFS_PIPE": 65535,
    },
    "mark_type": {"INODE": 1, "MOUNT": 2},
    "fh_entry_sizes": {"min_entries": 16},
    "TtyType": {"UNKNOWN": 0, "PTY": 1, "CONSOLE": 2, "VT": 3, "CTTY": 4, "EXT_TTY": 5, "SERIAL": 6},
    "remap_type": {"LINKED": 0, "GHOST": 1, "PROCFS": 2},
}

DEFAULTS: Mapping[str, str] = {
    "reg_file_entry.mnt_id": "-1",
    "bpfmap_file_entry.frozen": "false",
    "bpfmap_file_entry.ifindex": "0",
    "bpfmap_file_entry.mnt_id": "-1",
}
