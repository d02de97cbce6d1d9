# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""TCP connections: in every state, those that are being opened and closed ones that can still be read too.

images: tcp-stream-INODE (tcp_stream_entry, then what was received and not read, then what was sent and not acknowledged);
inventory (network_lock_method, dump_criu_run_id: how the dump left the packets of its connections locked).
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence

from ...errors import ImagesError, Obstacle, RestoreError
from ...images.image import Entry as ImageEntry
from ...images.image import ImagesDir
from ...images.schema import message
from ...kernel import tcp_repair
from ...kernel.nftables import Flow, Nftables
from ...kernel.sock_diag import TCP_CLOSE, TCP_LISTEN, TCP_SYN_SENT
from . import criu_iptables
from .inet_address import address, own_flow
from .kind import DumpContext, Entry, OpenFile, RestoreContext
from .socket_keys import check_keys, ulp
from .socket_options import borrowed, enlarge_buffers
from .tcp_guard import Guard, lock_table

TCP_STATES = (
    "NONE ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING NEW_SYN_RECV".split()
)
"""net/tcp_states.h, by number."""
SO_PEERNAME = 28
NETWORK_LOCK_IPTABLES, NETWORK_LOCK_NFTABLES, NETWORK_LOCK_SKIP = 0, 1, 2
"""network_lock_method of the inventory (criu/include/cr_options.h)."""
_SOCKADDR = {socket.AF_INET: struct.Struct("=HH4s8x"), socket.AF_INET6: struct.Struct("=HH4x16s4x")}
_UNACKED, _UNACKED_AT = struct.Struct("=I"), 24
"""tcpi_unacked of struct tcp_info (linux/tcp.h)."""
_PLAIN = ("inq_seq", "outq_seq", "snd_wscale", "rcv_wscale", "timestamp")
_WINDOW = ("snd_wl1", "snd_wnd", "max_window", "rcv_wnd", "rcv_wup")


def stream_image(inode: int) -> str:
    """Return the name of the image of the connection whose socket has INODE."""
    return f"tcp-stream-{inode:x}"


def peer_of(sock: socket.socket) -> tuple[bytes, int]:
    """Return the address and port that SOCK is, or was last, connected to; port 0 when it never was."""
    layout = _SOCKADDR[socket.AddressFamily(sock.family)]
    try:
        found = layout.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, layout.size))
    except OSError:  # ENOTCONN: never connected
        return b"", 0
    return found[2], socket.ntohs(found[1])


def tcp_state(sock: socket.socket) -> int:
    """Return the state of a TCP socket."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def is_connection(sock: socket.socket) -> bool:
    """Tell whether a TCP socket is an end of a connection, of one that was closed too."""
    return tcp_state(sock) != TCP_LISTEN and peer_of(sock)[1] != 0


def is_connection_entry(entry: Entry) -> bool:
    """Tell whether an inet_sk_entry is that of a connection."""
    tcp = entry.type == socket.SOCK_STREAM and entry.proto == socket.IPPROTO_TCP
    return bool(tcp and entry.dst_port and entry.state != TCP_LISTEN)


class ConnectionsDump:
    """The connections of a tree: all are locked and read at once, for both ends of one may be among them."""

    def __init__(self, context: DumpContext) -> None:
        self._context = context
        self._guard: Guard | None = None
        self._found: dict[int, tcp_repair.Connection] = {}

    def check(self, file: OpenFile, sock: socket.socket) -> Iterator[Obstacle]:
        """Refuse the connection FILE unless it may be carried or let go."""
        options, state = self._context.options, tcp_state(sock)
        host, port = peer_of(sock)
        peer = socket.inet_ntop(sock.family, host) if host else "nobody"
        what = f"a TCP connection ({TCP_STATES[state]}) with {peer} port {port}"
        if options.tcp_close:
            self._context.warn(f"process {file.pid}, {file.where}: {what} is not carried; it is closed once restored")
        elif state != TCP_CLOSE and not options.tcp_established:
            yield file.obstacle(what, "carry it with tcp_established, or let it go with tcp_close")
        elif state == TCP_SYN_SENT and _unacknowledged(sock) > 1:
            yield file.obstacle(f"{what} that has sent data with its SYN (TCP_FASTOPEN)", "wait until it is established")
        elif tcp_repair.in_repair(sock):
            yield file.obstacle(f"{what} in repair mode already", "end the other program that dumps or restores it")
        elif ulp(sock):
            yield file.obstacle(f"{what} whose protocol is in the kernel, such as TLS", "let it go with tcp_close")
        else:
            yield from check_keys(self._context, file, sock)
            if state == TCP_CLOSE and _has_error(sock):
                self._context.warn(f"process {file.pid}, {file.where}: its error is not carried; it reads as ended once restored")
            yield from _check_kernel(file.pid, file.where)

    def take(self) -> None:
        """Lock and read every connection of the tree, which stands still. KernelError when that is not possible."""
        sockets, flows = self._survey()
        self._guard = Guard(flows, list(sockets.values()))
        self._guard.start()
        with self._guard.holding(self._context.pids()):
            self._found = {inode: self._guard.take(local) for inode, local in sockets.items()}
        if self._context.options.leave_running or self._context.options.leave_stopped:
            self.close()

    def of(self, inode: int) -> tcp_repair.Connection:
        """Return the connection of a socket, all taken with the first."""
        if not self._found:
            self.take()
        return self._found[inode]

    def write(self, images: ImagesDir) -> None:
        """Write their images."""
        for inode, connection in self._found.items():
            images.write(stream_image(inode), [ImageEntry(_stream_entry(connection), connection.inq + connection.outq)])

    def lock_method(self) -> int:
        """Return what becomes of the lock, for the inventory."""
        if not self._found:
            return NETWORK_LOCK_IPTABLES
        return NETWORK_LOCK_NFTABLES if self._guard else NETWORK_LOCK_SKIP

    def keep(self, dump_id: str, pids: Sequence[int]) -> None:
        """Let the connections outlive their tree, PIDS, which is to be killed."""
        if self._guard:
            self._guard.keep(lock_table(dump_id), pids)

    def close(self) -> None:
        """Lift the lock, unless it is kept."""
        if self._guard:
            self._guard.close()
            self._guard = None

    def _survey(self) -> tuple[dict[int, int], list[Flow]]:
        sockets: dict[int, int] = {}
        flows: dict[Flow, None] = {}
        each = {file.stat.st_ino: file for file in self._context.files() if file.link.startswith("socket:[")}
        for file in each.values():
            flow = _flow_of(file.local)
            if flow is not None:
                sockets[file.stat.st_ino] = file.local
                flows.update({flow: None, flow.back: None})
        return sockets, list(flows)


def _unacknowledged(sock: socket.socket) -> int:
    """Return how many segments the peer has not acknowledged (tcpi_unacked)."""
    return int(_UNACKED.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_AT + _UNACKED.size), _UNACKED_AT)[0])


def _has_error(sock: socket.socket) -> bool:
    """Tell whether an error waits to be told, such as ECONNRESET; to ask which would take it away."""
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(events & select.POLLERR for _fd, events in poll.poll(0))


def _flow_of(local: int) -> Flow | None:
    """Return what socket LOCAL sends, None unless it is an end of a TCP connection."""
    with borrowed(local) as sock:
        tcp = sock.type == socket.SOCK_STREAM and sock.proto == socket.IPPROTO_TCP
        if sock.family not in _SOCKADDR or not tcp or not is_connection(sock):
            return None
        own = sock.getsockname()
        peer, port = peer_of(sock)
        return own_flow(socket.inet_pton(sock.family, own[0].partition("%")[0]), own[1], peer, port)


def _check_kernel(pid: int, where: str) -> Iterator[Obstacle]:
    """Refuse what the kernel does not let us do; no more is tried than to open a socket, and to look for a table."""
    try:
        with Nftables() as nftables, socket.socket() as sock:
            nftables.has(f"stillframe-{os.getpid()}")
            tcp_repair.set_repair(sock, tcp_repair.TCP_REPAIR_ON)
    except OSError as error:
        why = f"TCP connections need CAP_NET_ADMIN and nf_tables in the kernel ({error})"
        yield Obstacle(pid, where, why, "run as root, on a kernel with CONFIG_NF_TABLES_INET, or let it go with tcp_close")


def _stream_entry(connection: tcp_repair.Connection) -> Entry:
    entry = message("tcp_stream_entry")(
        inq_len=len(connection.inq),
        outq_len=len(connection.outq),
        opt_mask=connection.options,
        mss_clamp=connection.mss,
        unsq_len=connection.unsent,
        inq_seq=connection.inq_seq,
        outq_seq=connection.outq_seq,
        snd_wscale=connection.snd_wscale,
    )
    if connection.options & tcp_repair.TCPI_OPT_WSCALE:
        entry.rcv_wscale = connection.rcv_wscale
    if connection.options & tcp_repair.TCPI_OPT_TIMESTAMPS:
        entry.timestamp = connection.timestamp
    for name in _WINDOW:
        setattr(entry, name, getattr(connection.window, name))
    return entry


def _connection(state: int, image: ImageEntry) -> tcp_repair.Connection:
    """Return what the image of a connection in STATE holds."""
    entry = image.message
    return tcp_repair.Connection(
        state=state,
        options=entry.opt_mask,
        mss=entry.mss_clamp,
        inq=image.payload[: entry.inq_len],
        outq=image.payload[entry.inq_len :],
        unsent=entry.unsq_len,
        window=tcp_repair.Window(**{name: getattr(entry, name) for name in _WINDOW}),
        **{name: getattr(entry, name) for name in _PLAIN},
    )


class ConnectionsRestore:
    """Builds connections anew under a lock of ours, and sets them going, and those of the dump's lock, when the tree goes."""

    def __init__(self, context: RestoreContext) -> None:
        self._context = context
        self._nftables: Nftables | None = None
        self._built: dict[int, Entry] = {}
        self._locked: list[Flow] = []
        """What the connections send, which the dump may have left locked."""

    def check(self, where: str, entry: Entry) -> Iterator[Obstacle]:
        """Refuse what cannot be built here."""
        if entry.state != TCP_CLOSE and not self._context.options.tcp_established:
            yield Obstacle(0, where, "a TCP connection", "restore it with tcp_established, or let it go with tcp_close")
        elif not self._context.images.has(stream_image(entry.ino)):
            yield Obstacle(0, where, "a TCP connection whose state was not dumped", "let it go with tcp_close")
        else:
            yield from _check_kernel(0, where)
            yield from _check_address(where, entry)

    def lock(self, entries: Sequence[Entry]) -> None:
        """Hold back the packets of the connections ENTRIES until `go`. RestoreError when that is not possible."""
        self._locked = [_flow(entry) for entry in entries]
        if not entries or self._context.options.tcp_close:
            return
        flows = {way: None for flow in self._locked for way in (flow, flow.back)}
        self._nftables = Nftables().__enter__()
        self._context.undo(self._unlock)
        try:
            self._nftables.drop(f"stillframe-{os.getpid()}", flows, owned=True)
        except OSError as error:
            raise RestoreError(f"the TCP connections cannot be locked ({error}); run as root, with nf_tables in the kernel") from error

    def build(self, entry: Entry) -> socket.socket:
        """Return a socket that is the end of a connection that ENTRY describes, in repair mode. OSError as the kernel says."""
        connection = _connection(entry.state, self._stream(entry))
        own, peer = address(entry, entry.src_addr, entry.src_port), address(entry, entry.dst_addr, entry.dst_port)
        sock = _prepared(entry)
        try:
            enlarge_buffers(sock)
            tcp_repair.build(sock, connection, own, peer, _flow(entry).back)
        except OSError:
            sock.close()
            raise
        return sock

    def built(self, local: int, entry: Entry) -> None:
        """Note that our descriptor LOCAL is the connection of ENTRY, to be set going with the tree."""
        self._built[local] = entry

    def go(self) -> None:
        """Lift the locks, the dump's too, and end repair mode. RestoreError when the dump's lock cannot be lifted."""
        if self._locked:
            self._lift_lock()
            self._locked.clear()
        if self._nftables:
            self._nftables.delete(f"stillframe-{os.getpid()}")
            self._context.keep(self._nftables.detach())  # to close it now would wait for all processors (nft_rcv_nl_event)
            self._nftables = None
        while self._built:
            local, entry = self._built.popitem()
            with borrowed(local) as sock:
                tcp_repair.set_repair(sock, tcp_repair.TCP_REPAIR_OFF)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(entry.opts.reuseaddr))

    def _lift_lock(self) -> None:
        inventory: Entry = self._context.images.read_one("inventory")
        if inventory.network_lock_method == NETWORK_LOCK_IPTABLES and not criu_iptables.lift(self._locked):
            self._context.warn("CRIU's lock on the TCP connections cannot be lifted; delete its rules that drop their packets (iptables)")
        if inventory.network_lock_method != NETWORK_LOCK_NFTABLES:
            return
        try:
            with Nftables() as nftables:
                nftables.delete(lock_table(inventory.dump_criu_run_id))
        except OSError as error:
            name = lock_table(inventory.dump_criu_run_id)
            raise RestoreError(
                f"table {name} of nf_tables, which locks the connections, cannot be deleted ({error}); run as root"
            ) from error

    def _unlock(self) -> None:
        if self._nftables:
            self._nftables.__exit__(None, None, None)
            self._nftables = None

    def _stream(self, entry: Entry) -> ImageEntry:
        name = stream_image(entry.ino)
        found = self._context.images.entries(name)
        if len(found) != 1 or not found[0].message.HasField("snd_wnd") or found[0].message.unsq_len > found[0].message.outq_len:
            raise ImagesError(f"{self._context.images.file(name)} does not hold the whole of one connection; use another copy of the dump")
        return found[0]


def _flow(entry: Entry) -> Flow:
    """Return what the connection of ENTRY sends."""
    own, peer = (struct.pack(f"={len(words)}I", *words) for words in (entry.src_addr, entry.dst_addr))
    length = 4 if entry.family == socket.AF_INET else 16
    return own_flow(own[:length], entry.src_port, peer[:length], entry.dst_port)


def _prepared(entry: Entry) -> socket.socket:
    """Return a socket with what must be set before it has an address."""
    sock = socket.socket(entry.family, entry.type, entry.proto)
    try:
        if entry.HasField("v6only"):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(entry.v6only))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(entry.opts.so_reuseport))
        if entry.opts.so_bound_dev:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, entry.opts.so_bound_dev.encode() + b"\0")
    except OSError:
        sock.close()
        raise
    return sock


def _check_address(where: str, entry: Entry) -> Iterator[Obstacle]:
    try:
        with _prepared(entry) as sock:
            sock.bind(address(entry, entry.src_addr, 0))
    except OSError as error:
        yield Obstacle(
            0, where, f"a TCP connection from an address that cannot be bound ({error.strerror})", "give this machine the address"
        )
