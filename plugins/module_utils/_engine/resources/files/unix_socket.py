# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Unix sockets (unix(7)): pairs with what is in their queues, listening ones by path or abstract name, datagram sockets.

images: files.img (unix_sk_entry; sockets find their peers by inode number), sk-queues. The names of sockets: unix_address.py,
connections that wait to be accepted: unix_backlog.py, files on their way (SCM_RIGHTS): in_flight.py.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from ...errors import KernelError, Obstacle, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.sock_diag import TCP_ESTABLISHED, TCP_LISTEN, UnixSocket
from ...kernel.syscall import syscall
from .external import External
from .in_flight import carries_files, is_made_late
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext, Task
from .socket_options import borrowed, domain, has_readable_filter, read_options, restore_options
from .socket_queue import Packet, QueuesDump, fill_queue, read_queues
from .status import set_flags
from .unix_address import NamesRestore, check_path, display, is_bound_outside, read_path
from .unix_backlog import check_waiting, connect_waiting, listener_of, read_waiting

USK_EXTERN = 1
"""unix_sk_entry.uflags: the socket is no part of the tree, only its name is needed. Other bits are CRIU's own matters."""
SHUT_BOTH = 3
_CORE = "core-"
_DISCONNECT = socket.AF_UNSPEC.to_bytes(2, "little")
"""A struct sockaddr of no family: connect(2) to it dissolves the association of a datagram socket."""


def is_unix(file: OpenFile) -> bool:
    """Tell whether FILE is a unix socket."""
    return file.link.startswith("socket:[") and domain(file.local) == socket.AF_UNIX


class UnixDump(KindDump):
    """Dumps unix sockets."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._queues = QueuesDump()
        self._external: set[int] = set()

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse what is connected to sockets outside of the tree, and descriptors on their way through a socket."""
        sock = self.context.unix_socket(file.stat.st_ino)
        if sock is None:
            yield file.obstacle("a unix socket of another network namespace", "run in the network namespace of the tree")
            return
        with borrowed(file.local) as ours:
            if not has_readable_filter(ours):
                yield file.obstacle("an eBPF filter is attached to it, which the kernel does not give out", "have the program detach it")
            if _has_urgent_data(ours):
                yield file.obstacle("a byte sent out of band (MSG_OOB) waits in it", "have the program read it")
        if sock.name and sock.name[0]:
            if is_bound_outside(file, self.context.view):
                yield file.obstacle("it was bound outside of the mount namespace of the tree", "have the service bind it itself")
            else:
                yield from check_path(file, sock.name, self.context.view)
        if sock.state == TCP_LISTEN:
            yield from check_waiting(self.context, file, sock)
        elif sock.peer:
            yield from self._check_peer(file, sock)
        elif sock.state == TCP_ESTABLISHED and sock.type != socket.SOCK_DGRAM:
            yield from self._check_without_peer(file, sock)

    def collect(self, description: Description) -> Entry:
        """Return the unix_sk_entry, and take what waits to be read."""
        file, sock = description.file, self._socket(description.file)
        entry = message("unix_sk_entry")(
            id=description.file_id,
            ino=sock.inode,
            type=sock.type,
            state=sock.state,
            flags=file.flags,
            uflags=0,
            backlog=sock.wqueue,
            peer=sock.peer,
            fown=description.fown,
            name=sock.name,
        )
        if sock.name and sock.name[0]:
            read_path(file, entry, self.context.view)
        if sock.shutdown:
            entry.shutdown = sock.shutdown
        if sock.peer and not self.context.files_of(sock.peer):
            self._add_external(sock.peer)
        elif not sock.peer and sock.state == TCP_ESTABLISHED and sock.type != socket.SOCK_DGRAM:
            entry.peer = listener_of(self.context, sock.inode)
        elif sock.state == TCP_LISTEN and sock.connecting:
            read_waiting(self.context, sock, entry)
        with borrowed(file.local) as ours:
            entry.opts.CopyFrom(read_options(ours))
            if sock.rqueue and sock.state != TCP_LISTEN or carries_files(file):
                rights = [self.context.file_id(one) for one in self.context.in_flight(sock.inode)]
                self._warn_of(file, self._queues.take(ours, description.file_id, sock.rqueue, rights))
        return entry

    def write(self, images: ImagesDir) -> None:
        """Write the queues."""
        self._queues.write(images)

    def _socket(self, file: OpenFile) -> UnixSocket:
        sock = self.context.unix_socket(file.stat.st_ino)
        if sock is None:
            raise KernelError(f"process {file.pid}, {file.where} is no longer listed by the kernel; dump it again")
        return sock

    def _warn_of(self, file: OpenFile, packets: Sequence[Packet]) -> None:
        pids = {one.pid for one in self.context.files()}
        if not all(packet.data for packet in packets):  # the kernel marks it when it is peeked, and passes over it from then on
            who = f"process {file.pid}, {file.where}"
            self.context.warn(f"{who}: an empty message waits in it; dumps after this one lack it until the program has read it")
        if any(packet.ucred and packet.ucred[0] not in pids for packet in packets):
            who = f"process {file.pid}, {file.where}"
            self.context.warn(f"{who}: messages from outside of the tree wait in it; once restored, they carry our process number")

    def _check_peer(self, file: OpenFile, sock: UnixSocket) -> Iterator[Obstacle]:
        peer, inside = self.context.unix_socket(sock.peer), bool(self.context.files_of(sock.peer))
        name = display(peer.name) if peer else ""
        if not inside and External(self.context.options.external).has_socket(sock.inode, sock.peer):
            return
        if sock.type != socket.SOCK_DGRAM:
            if not inside:
                why = f"its peer (socket {sock.peer}{', ' + name if name else ''}) belongs to a process outside of the tree"
                yield file.obstacle(why, f"dump a tree that holds both ends, or let it be cut: --external unix[{sock.peer}]")
        elif peer is None or (peer.peer != sock.inode or not inside) and not peer.name:
            yield file.obstacle("its peer has no name by which it could be connected again", "dump a tree that holds both ends")
        elif not inside and not self.context.options.ext_unix_sk:
            why = f"it is connected to {name}, a socket of a process outside of the tree"
            yield file.obstacle(why, "use ext_unix_sk to connect it to that name again when restored")

    def _check_without_peer(self, file: OpenFile, sock: UnixSocket) -> Iterator[Obstacle]:
        if listener_of(self.context, sock.inode):
            if sock.wqueue:
                yield file.obstacle("it has sent data before it was accepted, which cannot be read", "wait until it is accepted")
        elif sock.shutdown != SHUT_BOTH:  # as it is when the other end was closed
            yield file.obstacle("it waits to be accepted by a process outside of the tree", "wait until it is, or close it")

    def _add_external(self, inode: int) -> None:
        """Add the entry by which CRIU keeps the name of a socket outside of the tree."""
        peer = self.context.unix_socket(inode)
        if peer is None or inode in self._external:
            return
        self._external.add(inode)
        nobody = message("fown_entry")(uid=0, euid=0, signum=0, pid_type=0, pid=0)
        options = message("sk_opts_entry")(
            so_sndbuf=0, so_rcvbuf=0, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0
        )
        entry = message("unix_sk_entry")(
            id=self.context.new_id(), ino=inode, type=socket.SOCK_DGRAM, state=TCP_LISTEN, flags=0, uflags=USK_EXTERN, backlog=0, peer=0
        )
        entry.fown.CopyFrom(nobody)
        entry.opts.CopyFrom(options)
        entry.name = peer.name
        self.context.add("UNIXSK", entry)


def _cut(entries: Mapping[int, Entry]) -> None:
    """Cut the connections to sockets that were left out of the dump (--external unix[INODE]): as if these had been closed."""
    left_out = {entry.ino for entry in entries.values() if entry.uflags & USK_EXTERN}
    for entry in entries.values():
        if entry.peer in left_out and entry.type != socket.SOCK_DGRAM:
            entry.peer = 0


class UnixRestore(KindRestore):
    """Makes unix sockets: pairs first, then names, then connections to names, then queues and options."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._names = NamesRestore(context.undo)
        self._locals: dict[int, int] = {}
        self._senders: dict[int, int] = {}
        """Who sends to a socket what its queue held: descriptors by file id."""
        self._spare: list[int] = []
        self._queues: Mapping[int, Sequence[ImageEntry]] = {}
        self._settled = False
        self._bound: set[int] = set()
        """The inode numbers of those that have a name of their own."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse names that are in use, and sockets that only CRIU knows how to restore."""
        _cut(entries)
        inodes = {entry.ino: entry for entry in entries.values()}
        for file_id, entry in entries.items():
            where = f"unix socket {display(entry.name) or entry.ino} ({self.context.holder(file_id)})"
            if entry.uflags & ~USK_EXTERN:
                yield Obstacle(0, where, "it is connected to CRIU's service or to a plug-in of CRIU's", "restore it with CRIU")
            elif entry.peer and entry.peer not in inodes:
                yield Obstacle(0, where, f"the images do not hold its peer (socket {entry.peer})", "use another copy of the dump")
            elif entry.peer and inodes[entry.peer].uflags & USK_EXTERN and not self.context.options.ext_unix_sk:
                name = display(inodes[entry.peer].name)
                yield Obstacle(0, where, f"it is connected to {name}, a socket outside of the tree", "use ext_unix_sk")
        yield from self._check_queues()
        yield from self._names.check(_bound(entries))

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make and bind all of them."""
        self.context.undo(self._drop)
        self._names.clear(_bound(entries))
        self._queues = read_queues(self.context.images)
        by_inode = _by_inode(entries)
        self._bound = {entry.ino for entry in _bound(entries)}
        for file_id, entry in _ours(entries).items():
            if file_id not in self._locals:
                self._make(file_id, entry, by_inode, file_id in self._queues)
        return self._locals

    def join(self, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Fill the queues with data and FILES and connect, unless that has to wait for the processes that sent it."""
        if not self._names_senders():
            self._settle(entries, files)

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Do what waited for the processes, all of which are there by now."""
        if self._names_senders() and not self._settled:
            self._settle(entries, files)

    def _names_senders(self) -> bool:
        return any(packet.message.HasField("stillframe") for packets in self._queues.values() for packet in packets)

    def _settle(self, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        self._settled = True
        ours, by_inode = _ours(entries), _by_inode(entries)
        pids = {int(name[len(_CORE) :]) for name in self.context.images.names() if name.startswith(_CORE)}
        try:
            self._each(ours, lambda sock, file_id, entry: self._fill(file_id, files, pids))
            self._connect_all(ours, by_inode)
            self._each(ours, lambda sock, file_id, entry: _complete(sock, entry))
        finally:
            self._drop()

    def _drop(self) -> None:
        self._names.close()
        while self._spare:
            os.close(self._spare.pop())

    def _check_queues(self) -> Iterator[Obstacle]:
        for packets in read_queues(self.context.images).values():
            for file_id in [file_id for packet in packets for scm in packet.message.scm for file_id in scm.rights]:
                where = f"file {file_id} ({self.context.holder(file_id) or 'on its way through a unix socket'})"
                kind = self.context.kind_of(file_id)
                if kind is None:
                    yield Obstacle(0, where, "the images do not hold it, or it is of a kind that is not restored", "restore it with CRIU")
                elif is_made_late(kind, self._path(file_id)):
                    yield Obstacle(0, where, "only a process that has a descriptor of it could restore it", "restore it with CRIU")

    def _path(self, file_id: int) -> str:
        entry = self.context.entries_of("REG").get(file_id)
        return str(entry.name) if entry is not None else ""

    def _each(self, entries: Mapping[int, Entry], act: Callable[[socket.socket, int, Entry], None]) -> None:
        for file_id, entry in entries.items():
            with borrowed(self._locals[file_id]) as sock:
                try:
                    act(sock, file_id, entry)
                except OSError as error:
                    name = display(entry.name) or str(entry.ino)
                    raise RestoreError(f"unix socket {name} cannot be restored ({error}); see what uses its name") from error

    def _make(self, file_id: int, entry: Entry, by_inode: Mapping[int, tuple[int, Entry]], queued: bool) -> None:
        """Make the socket of ENTRY, and its peer with it when they are a pair."""
        if _are_pair(entry, by_inode):
            peer_id, peer = by_inode[entry.peer]
            self._locals[file_id], self._locals[peer_id] = map(self.context.keep, self._pair(entry.type))
            self._senders[file_id], self._senders[peer_id] = self._locals[peer_id], self._locals[file_id]
            self._bind(peer_id, peer)
        elif entry.state == TCP_ESTABLISHED and entry.type != socket.SOCK_DGRAM and not entry.peer:
            self._make_with_sender(file_id, entry)  # its peer was closed: so will the sender be
        elif entry.type == socket.SOCK_DGRAM and queued:
            self._make_with_sender(file_id, entry)
            syscall("connect", self._locals[file_id], _DISCONNECT, len(_DISCONNECT))
            with borrowed(self._senders[file_id]) as sender:
                sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # takes the ECONNRESET that this left
        else:
            self._locals[file_id] = self.context.keep(socket.socket(socket.AF_UNIX, entry.type).detach())
        self._bind(file_id, entry)
        if entry.state == TCP_LISTEN:
            with borrowed(self._locals[file_id]) as sock:
                sock.listen(entry.backlog)

    def _make_with_sender(self, file_id: int, entry: Entry) -> None:
        local, sender = self._pair(entry.type)
        self._spare.append(sender)
        self._senders[file_id] = sender
        self._locals[file_id] = self.context.keep(local)

    def _pair(self, kind: int) -> tuple[int, int]:
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        return one.detach(), other.detach()

    def _bind(self, file_id: int, entry: Entry) -> None:
        if entry.ino in self._bound:
            try:
                self._names.bind(self._locals[file_id], entry)
            except OSError as error:
                raise RestoreError(f"{display(entry.name)} cannot be bound ({error.strerror}); see what uses the name") from error

    def _fill(self, file_id: int, files: Mapping[int, int], pids: Collection[int]) -> None:
        packets = self._queues.get(file_id, ())
        if packets:
            if file_id not in self._senders:
                raise RestoreError(f"unix socket {file_id} has a queue that nothing can have sent; use another copy of the dump")
            with borrowed(self._senders[file_id]) as sender:
                fill_queue(sender, packets, files, pids)

    def _connect_all(self, ours: Mapping[int, Entry], by_inode: Mapping[int, tuple[int, Entry]]) -> None:
        locals_of = {entry.ino: self._locals[file_id] for file_id, entry in ours.items()}
        done = connect_waiting(list(ours.values()), self._names.connect, locals_of)
        self._each(ours, lambda sock, file_id, entry: None if entry.ino in done else self._connect(sock, entry, by_inode))

    def _connect(self, sock: socket.socket, entry: Entry, by_inode: Mapping[int, tuple[int, Entry]]) -> None:
        if entry.peer and not _are_pair(entry, by_inode):
            sock.setblocking(False)
            self._names.connect(sock.fileno(), by_inode[entry.peer][1])


def _ours(entries: Mapping[int, Entry]) -> Mapping[int, Entry]:
    """Return the sockets of the tree."""
    return {file_id: entry for file_id, entry in entries.items() if not entry.uflags & USK_EXTERN}


def _by_inode(entries: Mapping[int, Entry]) -> Mapping[int, tuple[int, Entry]]:
    return {entry.ino: (file_id, entry) for file_id, entry in entries.items()}


def _has_urgent_data(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLPRI)
    return bool(dict(poll.poll(0)).get(sock.fileno(), 0) & select.POLLPRI)


def _are_pair(entry: Entry, by_inode: Mapping[int, tuple[int, Entry]]) -> bool:
    """Tell whether ENTRY and its peer are each other's peers."""
    return bool(entry.peer) and entry.peer != entry.ino and by_inode[entry.peer][1].peer == entry.ino


def _bound(entries: Mapping[int, Entry]) -> Sequence[Entry]:
    """Return the sockets that are to be bound: an accepted connection only shares the name of the socket that listened."""
    listening = {entry.ino for entry in entries.values() if entry.state == TCP_LISTEN}
    return [
        entry
        for entry in _ours(entries).values()
        if entry.name and (entry.state != TCP_ESTABLISHED or entry.type == socket.SOCK_DGRAM or entry.peer in listening)
    ]


def _complete(sock: socket.socket, entry: Entry) -> None:
    restore_options(sock, entry.opts)
    if entry.shutdown:
        sock.shutdown(entry.shutdown - 1)
    set_flags(sock.fileno(), entry.flags)


UNIX_SOCKETS = Kind("UNIXSK", "usk", is_unix, UnixDump, UnixRestore)
