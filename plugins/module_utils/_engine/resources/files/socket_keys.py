# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What a TCP socket has that no option gives out: keys (TCP_MD5SIG, TCP-AO; linux/tcp.h) and protocols on top of it (TCP_ULP)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from ...errors import Obstacle
from ...kernel.inet_diag import sockets_with_md5_keys
from .kind import DumpContext, OpenFile
from .socket_options import has_filter

TCP_ULP = 31
TCP_AO_INFO = 40
"""Linux 6.7; ENOENT without a key."""
SO_MEMINFO = 55
SK_MEMINFO_OPTMEM = 6
"""linux/sock_diag.h: bytes that the kernel keeps for options of the socket, keys among them."""
_MEMINFO = struct.Struct("=9I")
_ULP_NAME = 16
_AO_INFO = 64
_NO_AO = (errno.ENOENT, errno.ENOPROTOOPT, errno.EOPNOTSUPP)
_REMEDY = "let the program end the session, or run it without such a key"


def option_memory(sock: socket.socket) -> int:
    """Return how many bytes the kernel keeps for options of SOCK."""
    return int(_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))[SK_MEMINFO_OPTMEM])


def ulp(sock: socket.socket) -> str:
    """Return the name of the protocol in the kernel on top of a TCP socket, such as "tls"; empty when there is none."""
    return sock.getsockopt(socket.IPPROTO_TCP, TCP_ULP, _ULP_NAME).strip(b"\0").decode("ascii", "replace")


def check_keys(context: DumpContext, file: OpenFile, sock: socket.socket) -> Iterator[Obstacle]:
    """Refuse FILE, a TCP socket, if it has keys; warn of what it has that is not known."""
    if _has_ao_key(sock):
        yield file.obstacle("it has keys of TCP-AO, which the kernel does not give out", _REMEDY)
    elif option_memory(sock):
        if file.stat.st_ino in sockets_with_md5_keys(sock.family):
            yield file.obstacle("it has keys of TCP-MD5 (TCP_MD5SIG), which are not carried", _REMEDY)
        elif not has_filter(sock):  # which is kept there as well
            what = "the kernel keeps what it does not give out, such as a key of TCP-MD5 on a socket that was not bound; it is not carried"
            context.warn(f"process {file.pid}, {file.where}: {what}")


def _has_ao_key(sock: socket.socket) -> bool:
    try:
        sock.getsockopt(socket.IPPROTO_TCP, TCP_AO_INFO, _AO_INFO)
    except OSError as error:
        return error.errno not in _NO_AO
    return True
