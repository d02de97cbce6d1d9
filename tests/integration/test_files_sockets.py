# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Unix and internet sockets, from one process to another."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from _engine.images.image import ImagesDir
from _engine.kernel.fdinfo import fdinfo
from _engine.options import DumpOptions, RestoreOptions
from _engine.resources.files.dump import FilesDump
from _engine.resources.files.restore import FilesRestore
from holder import Restored, carried, dump, holding, restored

SO_BUF_LOCK = 72
SOCKET = socket.SOL_SOCKET


@contextmanager
def sock(found: Restored, name: str) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(found[name])) as copy:
        yield copy


@pytest.mark.parametrize("kind", ["stream", "dgram", "seqpacket"])
def test_pairs_keep_their_queues_and_boundaries(tmp_path: Path, kind: str) -> None:
    with carried("unix_pairs", tmp_path) as found, sock(found, kind) as one, sock(found, f"{kind} peer") as other:
        assert one.recv(100) == b"back"
        pieces = [other.recv(65536)] if kind == "stream" else [other.recv(65536), other.recv(65536)]
        assert pieces == ([b"one" + b"two" * 1000] if kind == "stream" else [b"one", b"two" * 1000])
        one.send(b"after")
        assert other.recv(100) == b"after"
        assert one.getsockopt(SOCKET, socket.SO_SNDBUF) == 212992 and one.getsockopt(SOCKET, SO_BUF_LOCK) == 0


def test_closed_and_shut_down_ends(tmp_path: Path) -> None:
    with carried("unix_pairs", tmp_path) as found:
        with sock(found, "half") as half:
            assert half.recv(100) == b"farewell" and half.recv(100) == b""
            with pytest.raises(BrokenPipeError):
                half.send(b"x")
        with sock(found, "stopped") as stopped, sock(found, "stopped peer") as peer:
            assert peer.recv(100) == b""
            assert peer.getsockopt(SOCKET, socket.SO_PASSCRED) == 1 and stopped.getsockopt(SOCKET, socket.SO_PASSCRED) == 0
            peer.send(b"still this way")
            assert stopped.recv(100) == b"still this way"
            with pytest.raises(BrokenPipeError):
                stopped.send(b"x")


def test_a_dump_leaves_the_queues_as_they_were(tmp_path: Path) -> None:
    with holding("unix_pairs", tmp_path / "state") as holder:
        first, _result = dump(holder, tmp_path / "first")
        second, _result = dump(holder, tmp_path / "second")
        assert [entry.payload for entry in first.entries("sk-queues")] == [entry.payload for entry in second.entries("sk-queues")]


def test_named_sockets(tmp_path: Path) -> None:
    with holding("unix_named", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
        holder.end()
        assert (tmp_path / "state" / "listening").exists(), "the ended process is meant to leave its socket behind"
        with restored(images, holder.fds) as found:
            status = os.stat(tmp_path / "state" / "listening")
            assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o660, 12, 34)
            with sock(found, "listening") as listening, sock(found, "waiting") as waiting, socket.socket(socket.AF_UNIX) as client:
                assert listening.getsockname() == str(tmp_path / "state" / "listening")
                first = listening.accept()[0]
                waiting.send(b"was waiting")
                assert first.recv(100) == b"was waiting"
                client.connect(listening.getsockname())
                listening.accept()[0].close()
                first.close()
            with sock(found, "abstract") as abstract, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                assert abstract.getsockname() == b"\0stillframe %d" % holder.pid
                client.connect(abstract.getsockname())
            with sock(found, "deleted") as deleted:
                assert deleted.getsockname() == str(tmp_path / "state" / "deleted") and not (tmp_path / "state" / "deleted").exists()
            with sock(found, "last") as last, sock(found, "unlinked") as unlinked:
                last.send(b"by no name")
                assert unlinked.recv(100) == b"by no name" and not (tmp_path / "state" / "unlinked").exists()
            with sock(found, "fresh") as fresh:
                fresh.connect(str(tmp_path / "state" / "listening"))


def test_datagrams_between_sockets_with_a_relative_name(tmp_path: Path) -> None:
    with carried("unix_named", tmp_path) as found, sock(found, "relative") as relative, sock(found, "sender") as sender:
        assert relative.getsockname() == "relative" and (tmp_path / "state" / "relative").exists()
        assert [relative.recv(100), relative.recv(100)] == [b"first", b"second"]
        sender.send(b"third")
        assert relative.recv(100) == b"third"


def test_a_failed_restore_removes_the_sockets_it_bound(tmp_path: Path) -> None:
    with holding("unix_named", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
    with pytest.raises(ZeroDivisionError), restored(images, holder.fds):
        raise ZeroDivisionError
    assert not (tmp_path / "state" / "listening").exists() and not (tmp_path / "state" / "relative").exists()


def test_names_in_use_are_obstacles(tmp_path: Path) -> None:
    with holding("unix_named", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
        with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
            where = " ".join(obstacle.where for obstacle in files.check())
            assert "state/listening" in where and "state/relative" in where and f"@stillframe {holder.pid}" in where


@contextmanager
def outside(directory: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dgram:
        stream.bind(str(directory / "stream"))
        stream.listen(1)
        dgram.bind(str(directory / "dgram"))
        yield stream, dgram


def test_peers_outside_of_the_tree_are_refused(tmp_path: Path) -> None:
    with outside(tmp_path / "state") as (stream, _dgram), holding("unix_outside", tmp_path / "state") as holder:
        accepted = stream.accept()[0]
        with FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
            found = {obstacle.where.split()[1]: obstacle for obstacle in files.preflight([holder.pid])}
        with FilesDump(DumpOptions(tree=holder.pid, images_dir="", ext_unix_sk=True)) as files:
            left = [obstacle.where.split()[1] for obstacle in files.preflight([holder.pid])]
        accepted.close()
    assert "outside of the tree" in found[str(holder.fds["stream"])].why
    assert "ext_unix_sk" in found[str(holder.fds["dgram"])].remedy and "state/dgram" in found[str(holder.fds["dgram"])].why
    assert left == [str(holder.fds["stream"])]


def test_what_would_lose_something_is_refused(tmp_path: Path) -> None:
    with holding("unix_lossy", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        found = {obstacle.where.split()[1]: obstacle.why for obstacle in files.preflight([holder.pid])}
    for name, why in {"left": "closed before it was accepted", "renamed": "state/after by now", "urgent": "MSG_OOB"}.items():
        assert why in found.pop(str(holder.fds[name]), ""), name
    assert not found


def test_an_epoll_instance_and_a_timer_that_only_a_message_holds_are_carried(tmp_path: Path) -> None:
    with carried("unix_epoll_sent", tmp_path) as found, sock(found, "other") as other, sock(found, "one") as one:
        found.files.commit()
        data, (instance, timer), _flags, _address = socket.recv_fds(other, 10, 2)
        assert data == b"x" and 3500 < fdinfo(os.getpid(), timer).pair("it_value")[0] <= 3600
        with select.epoll.fromfd(instance) as poll:
            assert poll.poll(0) == []
            one.send(b"more")
            assert poll.poll(10) == [(found.number("other"), select.EPOLLIN)]
        os.close(timer)


def test_an_epoll_instance_watches_what_another_process_has_open(tmp_path: Path) -> None:
    with holding("epoll_orphan", tmp_path / "state") as holder:
        images = ImagesDir(str(tmp_path))
        with FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
            files.collect([holder.pid, holder.fds["child"]])
            files.collect_late()
            files.write(images)
        holder.end()
    with restored(images, holder.fds) as found:
        poll = select.epoll.fromfd(os.dup(found["epoll"]))
        assert poll.poll(0) == []
        os.write(found["writer"], b"x")
        assert poll.poll(10) == [(holder.fds["reader"], select.EPOLLIN)]
        poll.close()


def test_ext_unix_sk_connects_to_the_name_again(tmp_path: Path) -> None:
    with outside(tmp_path / "state") as (stream, dgram), holding("unix_outside", tmp_path / "state") as holder:
        ours = frozenset({(holder.pid, holder.fds["stream"])})
        with FilesDump(DumpOptions(tree=holder.pid, images_dir="", ext_unix_sk=True), ours) as files:
            files.collect([holder.pid])
            files.collect_late()
            (tmp_path / "images").mkdir()
            images = ImagesDir(str(tmp_path / "images"))
            files.write(images)
        with FilesRestore(images, RestoreOptions(images_dir=images.path)) as refusing:
            assert [obstacle.remedy for obstacle in refusing.check()] == ["use ext_unix_sk"]
        with FilesRestore(images, RestoreOptions(images_dir=images.path, ext_unix_sk=True)) as files_again:
            assert files_again.check() == []
            files_again.open()
            with sock(Restored(files_again, holder.fds), "dgram") as again:
                again.send(b"hello again")
            assert dgram.recv(100) == b"hello again"


def test_listening_tcp_sockets(tmp_path: Path) -> None:
    with carried("tcp", tmp_path) as found:
        with sock(found, "four") as four:
            assert four.getsockopt(SOCKET, socket.SO_REUSEADDR) == 1 and four.getsockopt(SOCKET, socket.SO_KEEPALIVE) == 1
            assert four.getsockopt(SOCKET, socket.SO_RCVBUF) == 100000 and four.getsockopt(SOCKET, SO_BUF_LOCK) == 2
            assert struct.unpack("=ii", four.getsockopt(SOCKET, socket.SO_LINGER, 8)) == (1, 5)
            assert four.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert four.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
            assert struct.unpack_from("=I", four.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28) == (77,), "the backlog"
            assert not os.get_blocking(found["four"])
            client = socket.create_connection(four.getsockname())
            os.set_blocking(found["four"], True)
            server = four.accept()[0]
            client.send(b"hello")
            assert server.recv(100) == b"hello"
            client.close()
            server.close()
        with sock(found, "six") as six:
            assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1 and six.getsockname()[0] == "::1"
            assert six.getsockopt(SOCKET, socket.SO_REUSEADDR) == 0
            socket.create_connection(six.getsockname()[:2]).close()
        with sock(found, "shared") as one, sock(found, "shared too") as other:
            assert one.getsockname() == other.getsockname() and one.getsockopt(SOCKET, socket.SO_REUSEPORT) == 1
        with sock(found, "bound") as bound, sock(found, "fresh") as fresh:
            assert bound.getsockname()[1] and not fresh.getsockname()[1]
            bound.listen()
            fresh.connect(bound.getsockname())


def test_udp_sockets(tmp_path: Path) -> None:
    with carried("udp", tmp_path) as found, sock(found, "bound") as bound, sock(found, "connected") as connected:
        assert connected.getpeername() == bound.getsockname()
        connected.send(b"datagram")
        assert bound.recvfrom(100) == (b"datagram", connected.getsockname())
        assert bound.getsockopt(SOCKET, socket.SO_BROADCAST) == 1 and bound.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 0x10
        with sock(found, "six") as six:
            assert six.getsockname()[0] == "::" and six.getsockname()[1]


def test_connections_are_refused(tmp_path: Path) -> None:
    with holding("tcp_connected", tmp_path / "state") as holder, FilesDump(DumpOptions(tree=holder.pid, images_dir="")) as files:
        found = {obstacle.where.split()[1]: obstacle for obstacle in files.preflight([holder.pid])}
        assert set(found) == {str(holder.fds["client"]), str(holder.fds["server"])}
        assert "ESTABLISHED" in found[str(holder.fds["client"])].why and "127.0.0.1" in found[str(holder.fds["client"])].why


def test_addresses_in_use_are_obstacles(tmp_path: Path) -> None:
    with holding("tcp,udp", tmp_path / "state") as holder:
        images, _result = dump(holder, tmp_path / "images")
        with FilesRestore(images, RestoreOptions(images_dir=images.path)) as files:
            obstacles = files.check()
            assert all("cannot be bound (Address already in use)" in obstacle.why for obstacle in obstacles)
            assert {obstacle.where.split()[0] for obstacle in obstacles} == {"TCP", "UDP"}
