# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel writes of descriptors, and how it compares them."""

from __future__ import annotations

import os
import socket

import pytest
from _engine.kernel.fdinfo import EpollTarget, descriptors, fdinfo, parse
from _engine.kernel.kcmp import KCMP_FILE, group
from _engine.kernel.sock_diag import TCP_LISTEN, UnixSockets

EPOLL = """pos:\t0
flags:\t02000002
mnt_id:\t17
ino:\t1038
tfd:        8 events: 80000019 data: 7f8000000009  pos:0 ino:23ee sdev:f
tfd:       13 events:       19 data:                d  pos:5 ino:40e sdev:800010
"""
LOCKED = "pos:\t12\nflags:\t0102001\nmnt_id:\t27\nino:\t4\nlock:\t1: FLOCK  ADVISORY  WRITE 123 fe:00:5 0 EOF\n"


def test_epoll_targets() -> None:
    info = parse(EPOLL)
    assert info.cloexec and info.status_flags == os.O_RDWR and info.mnt_id == 17
    assert info.targets == (EpollTarget(8, 0x80000019, 0x7F8000000009, 0, 0x23EE, 0xF), EpollTarget(13, 0x19, 0xD, 5, 0x40E, 0x800010))


def test_locks_offsets_and_pairs() -> None:
    info = parse(LOCKED)
    assert info.pos == 12 and info.locks == ("1: FLOCK  ADVISORY  WRITE 123 fe:00:5 0 EOF",) and not info.cloexec
    assert parse("pos:\t0\nflags:\t02\nmnt_id:\t1\nit_value: (997, 184456466)\n").pair("it_value") == (997, 184456466)
    with pytest.raises(KeyError):
        info.pair("it_value")


def test_our_own_descriptors(tmp_path: object) -> None:
    fd = os.open(f"{tmp_path}/file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"12345")
    info = fdinfo(os.getpid(), fd)
    assert fd in descriptors(os.getpid()) and info.pos == 5 and info.flags & os.O_APPEND
    os.close(fd)
    with pytest.raises(OSError):
        fdinfo(os.getpid(), fd)


def test_descriptors_of_one_file_are_grouped() -> None:
    one, other = os.pipe()
    copies = [os.dup(one), os.dup(other), os.dup(one)]
    us = os.getpid()
    try:
        grouped = group(KCMP_FILE, [(us, fd) for fd in (one, other, *copies)])
    except OSError as error:
        pytest.skip(f"kcmp does not work here: {error}")
    assert grouped == [[0, 2, 4], [1, 3]]
    for fd in (one, other, *copies):
        os.close(fd)


def test_unix_sockets_are_found_by_inode() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket(socket.AF_UNIX) as listening, UnixSockets() as table:
        listening.bind(f"\0stillframe unit {os.getpid()}")
        listening.listen(7)
        one.send(b"12345")
        peer = table.find(os.fstat(other.fileno()).st_ino)
        assert peer and peer.rqueue == 5 and peer.peer == os.fstat(one.fileno()).st_ino and peer.type == socket.SOCK_STREAM
        named = table.find(os.fstat(listening.fileno()).st_ino)
        assert named and named.state == TCP_LISTEN and named.wqueue == 7 and named.name == listening.getsockname()
        assert {peer.inode, named.inode} <= {sock.inode for sock in table.all()}
        assert table.find(1) is None
