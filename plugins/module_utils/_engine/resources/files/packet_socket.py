# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Packet sockets (packet(7)): protocol, interface, rings, memberships, fanout. What they have received is not carried.

images: files.img (packet_sock_entry; name of the interface and newer options in a field of our own).
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator, Mapping

from ...errors import KernelError, Obstacle, RestoreError
from ...images.schema import message
from ...kernel.packet_diag import PDI_AUXDATA, PDI_LOSS, PDI_ORIGDEV, PDI_VNETHDR, PacketSocket, packet_socket
from ...kernel.syscall import syscall
from .kind import Description, Entry, Kind, KindDump, KindRestore, OpenFile
from .socket_options import borrowed, domain, has_readable_filter, read_options, restore_options
from .status import set_flags

SOL_PACKET = 263
SOCK_PACKET = 10
"""The interface before Linux 2.2, which binds by name."""
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_COPY_THRESH = 7
PACKET_VERSION = 10
PACKET_RESERVE = 12
PACKET_TX_RING = 13
PACKET_TIMESTAMP = 17
PACKET_FANOUT = 18
PACKET_FANOUT_CBPF = 6
PACKET_FANOUT_EBPF = 7
_FLAGS = {"aux_data": (PDI_AUXDATA, 8), "orig_dev": (PDI_ORIGDEV, 9), "vnet_hdr": (PDI_VNETHDR, 15), "loss": (PDI_LOSS, 14)}
"""Bits of packet_diag, and PACKET_AUXDATA, PACKET_ORIGDEV, PACKET_VNET_HDR and PACKET_LOSS (linux/if_packet.h)."""
_OPTIONS = {"qdisc_bypass": 20, "ignore_outgoing": 23}
_PACKET_VNET_HDR_SZ = 24
"""Linux 6.5."""
_PLAIN_VNET_HDR = 10
"""sizeof(struct virtio_net_hdr)."""
_NUMBERS = {"version": PACKET_VERSION, "reserve": PACKET_RESERVE, "timestamp": PACKET_TIMESTAMP, "copy_thresh": PACKET_COPY_THRESH}
_RINGS = {"rx_ring": PACKET_RX_RING, "tx_ring": PACKET_TX_RING}
_RING = ("block_size", "block_nr", "frame_size", "frame_nr", "retire_tmo", "sizeof_priv", "features")
"""As in struct tpacket_req3."""
_TPACKET_REQ3 = struct.Struct("=7I")
_PACKET_MREQ = struct.Struct("=iHH32s")
_SOCKADDR_LL = struct.Struct("=HHiHBB8s")
_SOCKADDR_PKT = struct.Struct("=H14s")


def is_packet(file: OpenFile) -> bool:
    """Tell whether FILE is a packet socket."""
    return file.link.startswith("socket:[") and domain(file.local) == socket.AF_PACKET


class PacketDump(KindDump):
    """Dumps packet sockets."""

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse what the kernel does not give out; warn of packets that were not read."""
        if packet_socket(file.stat.st_ino) is None:
            yield file.obstacle("a packet socket of another network namespace", "run in the network namespace of the tree")
            return
        with borrowed(file.local) as sock:
            if not has_readable_filter(sock):
                yield file.obstacle("an eBPF filter is attached to it, which the kernel does not give out", "have the program detach it")
            if _option(sock, PACKET_FANOUT) >> 16 & 0xFF in (PACKET_FANOUT_CBPF, PACKET_FANOUT_EBPF):
                yield file.obstacle("its fanout is steered by a program, which the kernel does not give out", "have the program close it")
            if _option(sock, _PACKET_VNET_HDR_SZ) not in (0, _PLAIN_VNET_HDR):
                yield file.obstacle("its virtio header has a size that the images have no place for", "have the program close it")
        poll = select.poll()
        poll.register(file.local, select.POLLIN)
        if poll.poll(0):
            self.context.warn(f"process {file.pid}, {file.where}: packets that were not read yet are not carried")

    def collect(self, description: Description) -> Entry:
        """Return the packet_sock_entry."""
        file, found = description.file, packet_socket(description.file.stat.st_ino)
        if found is None:
            raise KernelError(f"process {file.pid}, {file.where} is no longer listed by the kernel; dump it again")
        entry = message("packet_sock_entry")(
            id=description.file_id,
            type=found.type,
            protocol=socket.htons(found.protocol),
            flags=file.flags,
            ifindex=found.index,
            fown=description.fown,
            **{field: getattr(found, field) for field in _NUMBERS},
            **{field: bool(found.flags & bit) for field, (bit, _option_number) in _FLAGS.items()},
        )
        _read_lists(found, entry)
        with borrowed(file.local) as sock:
            entry.opts.CopyFrom(read_options(sock))
            for field, option in _OPTIONS.items():
                if _option(sock, option):
                    setattr(entry.stillframe, field, True)
        return entry


def _read_lists(found: PacketSocket, entry: Entry) -> None:
    for one in found.memberships:
        for _time in range(one.count):
            entry.mclist.add(index=one.index, type=one.type, addr=one.address)
    for field in _RINGS:
        ring = getattr(found, field)
        if ring:
            getattr(entry, field).CopyFrom(message("packet_ring")(**dict(zip(_RING, ring))))
    if found.fanout is not None:
        entry.fanout = found.fanout
    names = dict(socket.if_nameindex())
    if found.index in names:
        entry.stillframe.device = names[found.index]


def _option(sock: socket.socket, option: int) -> int:
    try:
        return sock.getsockopt(SOL_PACKET, option)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):  # an older kernel, a SOCK_PACKET
            raise
        return 0


class PacketRestore(KindRestore):
    """Makes packet sockets; each is bound when its filter and rings are there, so that it receives nothing before."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Refuse interfaces that are missing here."""
        known = dict(socket.if_nameindex())
        for file_id, entry in entries.items():
            where = f"packet socket ({self.context.holder(file_id) or f'file {file_id}'})"
            device = entry.stillframe.device
            for index in {entry.ifindex, *(one.index for one in entry.mclist)} - {0}:
                if known.get(index) != device if index == entry.ifindex and device else index not in known:
                    name = f"{device or 'an interface'} (number {index})" if index == entry.ifindex else f"interface {index}"
                    yield Obstacle(0, where, f"it uses {name}, which is missing", "make the interface, with that number")

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them."""
        found: dict[int, int] = {}
        for file_id, entry in entries.items():
            try:
                found[file_id] = self.context.keep(_make(entry).detach())
                with borrowed(found[file_id]) as sock:
                    _complete(sock, entry)
            except OSError as error:
                raise RestoreError(f"packet socket {file_id} cannot be restored ({error.strerror}); run as root") from error
        return found


def _make(entry: Entry) -> socket.socket:
    return socket.socket(socket.AF_PACKET, entry.type, entry.protocol if entry.type == SOCK_PACKET else 0)


def _complete(sock: socket.socket, entry: Entry) -> None:
    plain = entry.type != SOCK_PACKET
    restore_options(sock, entry.opts)
    if plain:
        _set_options(sock, entry)
    _bind(sock.fileno(), entry)
    for one in entry.mclist:
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, _PACKET_MREQ.pack(one.index, one.type, len(one.addr), one.addr))
    if entry.HasField("fanout"):
        sock.setsockopt(SOL_PACKET, PACKET_FANOUT, _signed(entry.fanout))
    set_flags(sock.fileno(), entry.flags)


def _set_options(sock: socket.socket, entry: Entry) -> None:
    for field, option in _NUMBERS.items():
        sock.setsockopt(SOL_PACKET, option, _signed(getattr(entry, field)))
    for field, (_bit, option) in _FLAGS.items():
        if getattr(entry, field):
            sock.setsockopt(SOL_PACKET, option, 1)
    for field, option in _OPTIONS.items():
        if getattr(entry.stillframe, field):
            sock.setsockopt(SOL_PACKET, option, 1)
    for field, option in _RINGS.items():
        if entry.HasField(field):
            ring = getattr(entry, field)
            sock.setsockopt(SOL_PACKET, option, _TPACKET_REQ3.pack(*(getattr(ring, name) for name in _RING)))


def _bind(local: int, entry: Entry) -> None:
    if entry.type == SOCK_PACKET:  # it has its protocol from the start
        name = dict(socket.if_nameindex()).get(entry.ifindex, "").encode()
        address = _SOCKADDR_PKT.pack(socket.AF_PACKET, name)
    else:
        address = _SOCKADDR_LL.pack(socket.AF_PACKET, entry.protocol, entry.ifindex, 0, 0, 0, b"")
    if entry.ifindex or entry.protocol and entry.type != SOCK_PACKET:
        syscall("bind", local, address, len(address))


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


PACKET_SOCKETS = Kind("PACKETSK", "psk", is_packet, PacketDump, PacketRestore)
