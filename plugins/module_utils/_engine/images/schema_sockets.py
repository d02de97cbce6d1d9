# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""CRIU's messages for sockets, what is queued in them, and TUN devices. Facts are those of images/*.proto of CRIU 4.2."""

from __future__ import annotations

from collections.abc import Mapping

from .field import Fields, optional, repeated, required

MESSAGES: Mapping[str, Fields] = {
    # images/sk-unix.proto
    "file_perms_entry": required("uint32", mode=1, uid=2, gid=3),
    "unix_sk_entry": (
        required("uint32", id=1, ino=2, type=3, state=4, flags=5, uflags=6, backlog=7, peer=8)
        + required("fown_entry", fown=9)
        + required("sk_opts_entry", opts=10)
        + required("bytes", name=11)
        + optional("sk_shutdown", shutdown=12)
        + optional("file_perms_entry", file_perms=13)
        + optional("string", name_dir=14)
        + optional("bool", deleted=15)
        + optional("uint32", ns_id=16)
        + optional("sint32", mnt_id=17)
    ),
    # images/sk-inet.proto
    "ip_opts_raw_entry": (
        optional("bool", hdrincl=1, nodefrag=2, checksum=3)
        + repeated("uint32", icmpv_filter=4)
    ),
    "ip_opts_entry": (
        optional("bool", freebind=1)
        + optional("ip_opts_raw_entry", raw=4)
        + optional("bool", pktinfo=5)
        + optional("uint32", tos=6, ttl=7)
    ),
    "inet_sk_entry": (
        required("uint32", id=1, ino=2, family=3, type=4, proto=5, state=6, src_port=7, dst_port=8, flags=9, backlog=10)
        + repeated("uint32", src_addr=11, dst_addr=12)
        + required("fown_entry", fown=13)
        + required("sk_opts_entry", opts=14)
        + optional("bool", v6only=15)
        + optional("ip_opts_entry", ip_opts=16)
        + optional("string", ifname=17)
        + optional("uint32", ns_id=18)
        + optional("sk_shutdown", shutdown=19)
        + optional("tcp_opts_entry", tcp_opts=20)
    ),
    # images/sk-opts.proto
    "sk_opts_entry": (
        required("uint32", so_sndbuf=1, so_rcvbuf=2)
        + required("uint64", so_snd_tmo_sec=3, so_snd_tmo_usec=4, so_rcv_tmo_sec=5, so_rcv_tmo_usec=6)
        + optional("bool", reuseaddr=7)
        + optional("uint32", so_priority=8, so_rcvlowat=9, so_mark=10)
        + optional("bool", so_passcred=11, so_passsec=12, so_dontroute=13, so_no_check=14)
        + optional("string", so_bound_dev=15)
        + repeated("fixed64", so_filter=16)
        + optional("bool", so_reuseport=17, so_broadcast=18, so_keepalive=19)
        + optional("uint32", tcp_keepcnt=20, tcp_keepidle=21, tcp_keepintvl=22, so_oobinline=23, so_linger=24, so_buf_lock=25)
    ),
    # images/sk-netlink.proto
    "netlink_sk_entry": (
        required("uint32", id=1, ino=2, protocol=3, state=4, flags=6, portid=7)
        + repeated("uint32", groups=8)
        + required("uint32", dst_portid=9, dst_group=10)
        + required("fown_entry", fown=11)
        + required("sk_opts_entry", opts=12)
        + optional("uint32", ns_id=13)
    ),
    # images/sk-packet.proto
    "scm_entry": (
        required("uint32", type=1)
        + repeated("uint32", rights=2)
    ),
    "sk_packet_entry": (
        required("uint32", id_for=1, length=2)
        + repeated("scm_entry", scm=4)
    ),
    # images/packet-sock.proto
    "packet_mclist": (
        required("uint32", index=1, type=2)
        + required("bytes", addr=3)
    ),
    "packet_ring": required(
        "uint32",
        block_size=1, block_nr=2, frame_size=3, frame_nr=4, retire_tmo=5, sizeof_priv=6, features=7,
    ),
    "packet_sock_entry": (
        required("uint32", id=1, type=2, protocol=3, flags=4, ifindex=5)
        + required("fown_entry", fown=6)
        + required("sk_opts_entry", opts=7)
        + required("uint32", version=8, reserve=9)
        + required("bool", aux_data=10, orig_dev=11, vnet_hdr=12, loss=13)
        + required("uint32", timestamp=14, copy_thresh=15)
        + repeated("packet_mclist", mclist=16)
        + optional("uint32", fanout=17)
        + optional("packet_ring", rx_ring=18, tx_ring=19)
        + optional("uint32", ns_id=20)
    ),
    # images/tcp-stream.proto
    "tcp_opts_entry": (
        optional("bool", cork=1, nodelay=2)
        + optional("uint32", keepcnt=3, keepidle=4, keepintvl=5)
    ),
    "tcp_stream_entry": (
        required("uint32", inq_len=1, inq_seq=2, outq_len=3, outq_seq=4, opt_mask=5, snd_wscale=6, mss_clamp=7)
        + optional("uint32", rcv_wscale=8, timestamp=9)
        + optional("bool", cork=10, nodelay=11)
        + optional("uint32", unsq_len=12, snd_wl1=13, snd_wnd=14, max_window=15, rcv_wnd=16, rcv_wup=17)
    ),
    # images/tun.proto
    "tunfile_entry": (
        required("uint32", id=1)
        + optional("string", netdev=2)
        + optional("bool", detached=3)
        + optional("uint32", ns_id=4)
    ),
    "tun_link_entry": (
        required("uint32", flags=1)
        + required("int32", owner=2, group=3)
        + required("uint32", vnethdr=4, sndbuf=5)
    ),
}

ENUMS: Mapping[str, Mapping[str, int]] = {
    "sk_shutdown": {"NONE": 0, "READ": 1, "WRITE": 2, "BOTH": 3},
}

DEFAULTS: Mapping[str, str] = {
    "unix_sk_entry.mnt_id": "-1",
    "packet_sock_entry.fanout": "4294967295",
}
