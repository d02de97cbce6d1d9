# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that every socket has (socket(7), SOL_SOCKET). Images: sk_opts_entry in the entry of the socket."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from ...images.schema import message
from ...kernel.syscall import syscall
from .kind import Entry

SO_NO_CHECK = 11
SO_GET_FILTER = 26
SO_ATTACH_FILTER = 26
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_PASSSEC = 34
SO_PEEK_OFF = 42
SO_BUF_LOCK = 72
"""Linux 5.14."""

_FLAGS = {
    "reuseaddr": socket.SO_REUSEADDR,
    "so_dontroute": socket.SO_DONTROUTE,
    "so_no_check": SO_NO_CHECK,
    "so_reuseport": socket.SO_REUSEPORT,
    "so_broadcast": socket.SO_BROADCAST,
    "so_keepalive": socket.SO_KEEPALIVE,
}
_UNIX_FLAGS = {"so_passcred": socket.SO_PASSCRED, "so_passsec": SO_PASSSEC}
_NUMBERS = {
    "so_priority": socket.SO_PRIORITY,
    "so_rcvlowat": socket.SO_RCVLOWAT,
    "so_mark": socket.SO_MARK,
    "so_oobinline": socket.SO_OOBINLINE,
}
_ADDRESS_FLAGS = ("reuseaddr", "so_reuseport")
"""Set by the kind before it binds."""
_BUFFERS = {"so_sndbuf": (socket.SO_SNDBUF, SO_SNDBUFFORCE), "so_rcvbuf": (socket.SO_RCVBUF, SO_RCVBUFFORCE)}
_TIMEOUTS = {"so_snd_tmo": socket.SO_SNDTIMEO, "so_rcv_tmo": socket.SO_RCVTIMEO}
_TIMEVAL = struct.Struct("@ll")
_LINGER = struct.Struct("=ii")
_LENGTH = struct.Struct("=I")
_FILTER = struct.Struct("=HBBI")
"""struct sock_filter: code, jt, jf, k."""
_FPROG = struct.Struct("@HP")
_IFNAMSIZ = 16
_MAX_BUFFER = (1 << 30) - 1
"""The kernel keeps twice the value in an int."""


@contextmanager
def borrowed(local: int) -> Iterator[socket.socket]:
    """Give our descriptor LOCAL as a socket for the length of the block; it stays open."""
    sock = socket.socket(fileno=local)
    try:
        yield sock
    finally:
        sock.detach()


def domain(local: int) -> int:
    """Return the address family of a socket (SO_DOMAIN). OSError when LOCAL is none."""
    value = ctypes.create_string_buffer(4)
    syscall("getsockopt", local, socket.SOL_SOCKET, socket.SO_DOMAIN, value, ctypes.create_string_buffer(_LENGTH.pack(4), 4))
    return int(_LENGTH.unpack(value.raw)[0])


def read_options(sock: socket.socket) -> Entry:
    """Return the sk_opts_entry of SOCK. PermissionError when it has an eBPF filter: see `has_readable_filter`."""
    entry = message("sk_opts_entry")()
    for field, (option, _force) in _BUFFERS.items():
        setattr(entry, field, sock.getsockopt(socket.SOL_SOCKET, option))
    for field, option in _TIMEOUTS.items():
        seconds, micros = _TIMEVAL.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size))
        setattr(entry, f"{field}_sec", seconds)
        setattr(entry, f"{field}_usec", micros)
    flags = {**_FLAGS, **_UNIX_FLAGS} if sock.family in (socket.AF_UNIX, socket.AF_NETLINK) else _FLAGS
    for field, option in flags.items():
        setattr(entry, field, bool(sock.getsockopt(socket.SOL_SOCKET, option)))
    for field, option in _NUMBERS.items():
        value = sock.getsockopt(socket.SOL_SOCKET, option)
        if value or field != "so_mark":
            setattr(entry, field, value)
    _read_rare(sock, entry)
    return entry


def _read_rare(sock: socket.socket, entry: Entry) -> None:
    on, seconds = _LINGER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.size))
    if on:
        entry.so_linger = seconds
    try:
        entry.so_buf_lock = sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
    device = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _IFNAMSIZ).rstrip(b"\0")
    if device:
        entry.so_bound_dev = device.decode("ascii", "replace")
    entry.so_filter.extend(_filter(sock.fileno()))


def has_readable_filter(sock: socket.socket) -> bool:
    """Tell whether the filter of SOCK, if it has one, is one that the kernel gives out: classic BPF."""
    try:
        list(_filter(sock.fileno()))
    except PermissionError:
        return False
    return True


def has_filter(sock: socket.socket) -> bool:
    """Tell whether SOCK has a filter of either kind."""
    return not has_readable_filter(sock) or any(True for _word in _filter(sock.fileno()))


def _filter(local: int) -> Iterator[int]:
    """Yield the instructions of a classic BPF filter as the images have them: code, jt, jf and k from the top of 64 bits."""
    length = ctypes.create_string_buffer(_LENGTH.size)
    syscall("getsockopt", local, socket.SOL_SOCKET, SO_GET_FILTER, 0, length)  # counts instructions, not bytes
    count = _LENGTH.unpack(length.raw)[0]
    if not count:
        return
    program = ctypes.create_string_buffer(count * _FILTER.size)
    syscall("getsockopt", local, socket.SOL_SOCKET, SO_GET_FILTER, program, length)
    for code, jump_true, jump_false, value in _FILTER.iter_unpack(program.raw):
        yield code << 48 | jump_true << 40 | jump_false << 32 | value


def enlarge_buffers(sock: socket.socket) -> None:
    """Make room for any queue; `restore_options` sets the real sizes."""
    for option, force in _BUFFERS.values():
        _set_buffer(sock, option, force, _MAX_BUFFER)


def restore_options(sock: socket.socket, entry: Entry) -> None:
    """Give SOCK the options of ENTRY but those that had to be set before it was bound. OSError for what we may not set."""
    for field, (option, force) in _BUFFERS.items():
        if sock.getsockopt(socket.SOL_SOCKET, option) != getattr(entry, field):
            _set_buffer(sock, option, force, getattr(entry, field) // 2)  # the kernel doubles it
    if entry.HasField("so_buf_lock"):
        _set(sock, SO_BUF_LOCK, entry.so_buf_lock)
    for field, option in {**_FLAGS, **_UNIX_FLAGS, **_NUMBERS}.items():
        if field not in _ADDRESS_FLAGS and entry.HasField(field):
            _set(sock, option, int(getattr(entry, field)))
    for field, option in _TIMEOUTS.items():
        timeout = _TIMEVAL.pack(getattr(entry, f"{field}_sec"), getattr(entry, f"{field}_usec"))
        sock.setsockopt(socket.SOL_SOCKET, option, timeout)
    if entry.HasField("so_linger"):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, entry.so_linger))
    if entry.so_bound_dev:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, entry.so_bound_dev.encode() + b"\0")
    if entry.so_filter:
        _attach_filter(sock, entry)


def _set(sock: socket.socket, option: int, value: int) -> None:
    """Set an option that differs; some need CAP_NET_ADMIN even for the value that they have."""
    if sock.getsockopt(socket.SOL_SOCKET, option) != value:
        sock.setsockopt(socket.SOL_SOCKET, option, value)


def _set_buffer(sock: socket.socket, option: int, force: int, size: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:  # without CAP_NET_ADMIN up to net.core.[rw]mem_max
        sock.setsockopt(socket.SOL_SOCKET, option, size)


def _attach_filter(sock: socket.socket, entry: Entry) -> None:
    words = [(word >> 48 & 0xFFFF, word >> 40 & 0xFF, word >> 32 & 0xFF, word & 0xFFFFFFFF) for word in entry.so_filter]
    program = ctypes.create_string_buffer(b"".join(_FILTER.pack(*word) for word in words))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _FPROG.pack(len(words), ctypes.addressof(program)))
