# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes: what the kernel tells of descriptors."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import tempfile

from ..errors import KernelError
from ..kernel import kcmp
from ..kernel.fdinfo import fdinfo
from ..kernel.nftables import Nftables
from ..kernel.sock_diag import UnixSockets
from ..kernel.tcp_repair import TCP_REPAIR_ON, set_repair
from ..kernel.syscall import syscall

_CLOCK_MONOTONIC = 1
_TFD_IOC_SET_TICKS = 0x40085400  # include/uapi/linux/timerfd.h
_IPV6_FREEBIND = 78
_SO_BUF_LOCK = 72  # include/uapi/asm-generic/socket.h, Linux 5.15


def mnt_id() -> None:
    """Read from fdinfo which mount a file is on."""
    with open(os.devnull, "rb") as file:
        if fdinfo(os.getpid(), file.fileno()).mnt_id < 0:
            raise KernelError("fdinfo has no mnt_id line")


def fdinfo_lock() -> None:
    """Read from fdinfo which locks are held on a file."""
    with tempfile.TemporaryFile() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not fdinfo(os.getpid(), file.fileno()).locks:
            raise KernelError("fdinfo has no lock line")


def timerfd() -> None:
    """Read the state of a timerfd from fdinfo, and set the ticks that it has counted (CONFIG_CHECKPOINT_RESTORE)."""
    descriptor = syscall("timerfd_create", _CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if "it_value" not in fdinfo(os.getpid(), descriptor).values:
            raise KernelError("fdinfo of a timerfd has no it_value line")
        fcntl.ioctl(descriptor, _TFD_IOC_SET_TICKS, struct.pack("<Q", 3))
        ticks = os.read(descriptor, 8)
    finally:
        os.close(descriptor)
    if ticks != struct.pack("<Q", 3):
        raise KernelError("a timerfd does not keep the ticks that were set")


def kcmp_epoll() -> None:
    """Tell which file an epoll instance watches (KCMP_EPOLL_TFD, Linux 4.13)."""
    ours, theirs = os.pipe()
    with select.epoll() as epoll:
        try:
            epoll.register(ours, select.EPOLLIN)
            us = os.getpid()
            watched = kcmp.is_epoll_target((us, ours), (us, epoll.fileno()), ours, 0)
        finally:
            os.close(ours)
            os.close(theirs)
    if not watched:
        raise KernelError("kcmp does not find the file that an epoll instance watches")


def map_files() -> None:
    """Open a mapped file by its mapping (/proc/PID/map_files, CAP_CHECKPOINT_RESTORE)."""
    directory = f"/proc/{os.getpid()}/map_files"
    os.close(os.open(os.path.join(directory, min(os.listdir(directory))), os.O_RDONLY))


def sock_diag() -> None:
    """List the unix sockets (CONFIG_UNIX_DIAG)."""
    one, other = socket.socketpair()
    with one, other:
        with UnixSockets() as sockets:
            listed = sockets.find(os.fstat(one.fileno()).st_ino)
        if listed is None:
            raise KernelError("sock_diag does not list a unix socket that is there")


def sockopt_buf_lock() -> None:
    """Read whether the buffer sizes of a socket were set by its user (SO_BUF_LOCK)."""
    with socket.socket() as sock:
        sock.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK)


def fd_passing() -> None:
    """Send a descriptor over a unix socket and peek at it, which leaves it there (MSG_PEEK with SCM_RIGHTS)."""
    one, other = socket.socketpair()
    with one, other:
        one.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))])
        for flags in (socket.MSG_PEEK, 0):
            _data, ancillary, _flags, _address = other.recvmsg(1, socket.CMSG_SPACE(4), flags | socket.MSG_CMSG_CLOEXEC)
            if not ancillary:
                raise KernelError("a descriptor in a unix socket cannot be peeked at")
            os.close(array.array("i", ancillary[0][2][:4])[0])


def tcp_repair_mode() -> None:
    """Bring a TCP socket into repair mode (CONFIG_CHECKPOINT_RESTORE, CAP_NET_ADMIN)."""
    with socket.socket() as sock:
        set_repair(sock, TCP_REPAIR_ON)


def network_lock() -> None:
    """Make a table of nf_tables that goes with its maker (CONFIG_NF_TABLES_INET, Linux 5.12, CAP_NET_ADMIN)."""
    with Nftables() as nftables:
        nftables.drop(f"stillframe-check-{os.getpid()}", (), owned=True)


def ipv6_freebind() -> None:
    """Let an IPv6 socket be bound to any address (IPV6_FREEBIND, Linux 4.15)."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)


def raw_sockets() -> None:
    """Find a raw socket in the kernel's table of them."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock, open("/proc/net/raw", encoding="ascii") as table:
        if not any(str(os.fstat(sock.fileno()).st_ino) in line.split() for line in table):
            raise KernelError("/proc/net/raw does not list a raw socket")
