# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of files that are carried, in the order in which they are opened at a restore."""

from __future__ import annotations

from .epoll import EPOLLS
from .eventfd import EVENTFDS
from .fanotify import FANOTIFIES
from .fifo import FIFOS
from .inet_socket import INET_SOCKETS
from .inotify import INOTIFIES
from .kind import Kind
from .memfd import MEMFDS
from .namespace import NAMESPACES
from .netlink_socket import NETLINK_SOCKETS
from .packet_socket import PACKET_SOCKETS
from .pidfd import PIDFDS
from .pipe import PIPES
from .regular import REGULAR
from .signalfd import SIGNALFDS
from .timerfd import TIMERFDS
from .tty import TTYS
from .unix_socket import UNIX_SOCKETS

KINDS: tuple[Kind, ...] = (
    MEMFDS,
    REGULAR,
    PIPES,
    FIFOS,
    EVENTFDS,
    TIMERFDS,
    SIGNALFDS,
    PIDFDS,
    NAMESPACES,
    TTYS,
    UNIX_SOCKETS,
    INET_SOCKETS,
    NETLINK_SOCKETS,
    PACKET_SOCKETS,
    INOTIFIES,
    FANOTIFIES,
    EPOLLS,
)
