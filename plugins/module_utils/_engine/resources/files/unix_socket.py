# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Unix sockets (unix(7)): pairs with what is in their queues, listening ones by path or abstract name, datagram sockets.

images: files.img (unix_sk_entry; sockets find their peers by inode number), sk-queues. The names of sockets: unix_address.py.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...errors import KernelError, Obstacle, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel.sock_diag import TCP_ESTABLISHED, TCP_LISTEN, UnixSocket
from ...kernel.syscall import syscall
from .kind import Description, DumpContext, Entry, Kind, KindDump, KindRestore, OpenFile, RestoreContext
from .socket_options import borrowed, domain, has_readable_filter, read_options, restore_options
from .socket_queue import QueuesDump, fill_queue, read_queues
from .status import set_flags
from .unix_address import NamesRestore, display, is_bound_outside, read_path

USK_EXTERN = 1
"""unix_sk_entry.uflags: the socket is no part of the tree, only its name is needed. Other bits are CRIU's own matters."""
SHUT_BOTH = 3
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
        if int(file.info.values.get("scm_fds", "0")):
            yield file.obstacle("descriptors sent through it (SCM_RIGHTS) wait to be received", "have the program receive them")
        if sock.name and sock.name[0] and is_bound_outside(file, self.context.view):
            yield file.obstacle("it was bound outside of the mount namespace of the tree", "have the service bind it itself")
        if sock.state == TCP_LISTEN:
            self._warn_waiting(file, sock)
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
        elif not sock.peer and sock.state == TCP_ESTABLISHED and sock.type != socket.SOCK_DGRAM and sock.shutdown != SHUT_BOTH:
            entry.peer = self._listener_of(sock.inode)
        with borrowed(file.local) as ours:
            entry.opts.CopyFrom(read_options(ours))
            if sock.rqueue and sock.state != TCP_LISTEN:
                if entry.opts.so_passcred:
                    self.context.warn(f"process {file.pid}, {file.where}: what waits in it will carry our credentials, not its sender's")
                self._queues.take(ours, description.file_id, ended=not sock.peer or bool(sock.shutdown))
        return entry

    def write(self, images: ImagesDir) -> None:
        """Write the queues."""
        self._queues.write(images)

    def _socket(self, file: OpenFile) -> UnixSocket:
        sock = self.context.unix_socket(file.stat.st_ino)
        if sock is None:
            raise KernelError(f"process {file.pid}, {file.where} is no longer listed by the kernel; dump it again")
        return sock

    def _warn_waiting(self, file: OpenFile, sock: UnixSocket) -> None:
        if any(not inode or not self.context.files_of(inode) for inode in sock.connecting):
            who = f"process {file.pid}, {file.where}"
            self.context.warn(f"{who}: connections that wait to be accepted are not carried; their clients must connect again")

    def _check_peer(self, file: OpenFile, sock: UnixSocket) -> Iterator[Obstacle]:
        peer, inside = self.context.unix_socket(sock.peer), bool(self.context.files_of(sock.peer))
        name = display(peer.name) if peer else ""
        if sock.type != socket.SOCK_DGRAM:
            if not inside:
                why = f"its peer (socket {sock.peer}{', ' + name if name else ''}) belongs to a process outside of the tree"
                yield file.obstacle(why, "dump a tree that holds both ends, or have the program close it")
        elif peer is None or (peer.peer != sock.inode or not inside) and not peer.name:
            yield file.obstacle("its peer has no name by which it could be connected again", "dump a tree that holds both ends")
        elif not inside and not self.context.options.ext_unix_sk:
            why = f"it is connected to {name}, a socket of a process outside of the tree"
            yield file.obstacle(why, "use ext_unix_sk to connect it to that name again when restored")

    def _check_without_peer(self, file: OpenFile, sock: UnixSocket) -> Iterator[Obstacle]:
        if sock.shutdown == SHUT_BOTH:  # the other end was closed
            return
        if not self._listener_of(sock.inode):
            yield file.obstacle("it waits to be accepted by a process outside of the tree", "wait until it is, or close it")
        elif sock.wqueue:
            yield file.obstacle("it has sent data before it was accepted, which cannot be read", "wait until it is accepted")

    def _listener_of(self, inode: int) -> int:
        """Return the inode number of the listening socket of the tree at which socket INODE waits, 0 when there is none."""
        for file in self.context.files():
            if file.link.startswith("socket:["):
                sock = self.context.unix_socket(file.stat.st_ino)
                if sock and inode in sock.connecting:
                    return sock.inode
        return 0

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


class UnixRestore(KindRestore):
    """Makes unix sockets: pairs first, then names, then connections to names, then queues and options."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._names = NamesRestore(context.undo)
        self._locals: dict[int, int] = {}
        self._senders: dict[int, int] = {}
        """Who sends to a socket what its queue held: descriptors by file id."""
        self._spare: list[int] = []

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse names that are in use, and sockets that only CRIU knows how to restore."""
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
        for packets in read_queues(self.context.images).values():
            if any(packet.message.scm for packet in packets):
                yield Obstacle(0, "sk-queues", "descriptors on their way through a unix socket (SCM_RIGHTS)", "restore it with CRIU")
        yield from self._names.check([entry for entry in entries.values() if _is_bound(entry)])

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        self._names.clear([entry for entry in entries.values() if _is_bound(entry)])
        queues = read_queues(self.context.images)
        ours = {file_id: entry for file_id, entry in entries.items() if not entry.uflags & USK_EXTERN}
        by_inode = {entry.ino: (file_id, entry) for file_id, entry in entries.items()}
        try:
            for file_id, entry in ours.items():
                if file_id not in self._locals:
                    self._make(file_id, entry, by_inode, file_id in queues)
            self._each(ours, lambda sock, file_id, entry: self._fill(file_id, queues.get(file_id, ())))
            self._each(ours, lambda sock, file_id, entry: self._connect(sock, entry, by_inode))
            self._each(ours, lambda sock, file_id, entry: _complete(sock, entry))
        finally:
            self._names.close()
            while self._spare:
                os.close(self._spare.pop())
        return self._locals

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
        if _is_bound(entry):
            try:
                self._names.bind(self._locals[file_id], entry)
            except OSError as error:
                raise RestoreError(f"{display(entry.name)} cannot be bound ({error.strerror}); see what uses the name") from error

    def _fill(self, file_id: int, packets: Sequence[ImageEntry]) -> None:
        if packets:
            if file_id not in self._senders:
                raise RestoreError(f"unix socket {file_id} has a queue that nothing can have sent; use another copy of the dump")
            with borrowed(self._senders[file_id]) as sender:
                fill_queue(sender, packets)

    def _connect(self, sock: socket.socket, entry: Entry, by_inode: Mapping[int, tuple[int, Entry]]) -> None:
        if entry.peer and not _are_pair(entry, by_inode):
            sock.setblocking(False)
            self._names.connect(sock.fileno(), by_inode[entry.peer][1])


def _are_pair(entry: Entry, by_inode: Mapping[int, tuple[int, Entry]]) -> bool:
    """Tell whether ENTRY and its peer are each other's peers."""
    return bool(entry.peer) and entry.peer != entry.ino and by_inode[entry.peer][1].peer == entry.ino


def _is_bound(entry: Entry) -> bool:
    """Tell whether the socket is to be bound: an accepted connection only shares the name of the socket that listened."""
    accepted = entry.state == TCP_ESTABLISHED and entry.type != socket.SOCK_DGRAM
    return bool(entry.name) and not accepted and not entry.uflags & USK_EXTERN


def _complete(sock: socket.socket, entry: Entry) -> None:
    restore_options(sock, entry.opts)
    if entry.shutdown:
        sock.shutdown(entry.shutdown - 1)
    set_flags(sock.fileno(), entry.flags)


UNIX_SOCKETS = Kind("UNIXSK", "usk", is_unix, UnixDump, UnixRestore)
