# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel tells of a terminal, and takes for it (ioctl_tty(2); numbers and layouts of asm-generic/ioctls.h and termbits.h)."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import struct
from dataclasses import dataclass

from .procfs import text

TCSETS = 0x5402
TCXONC = 0x540A
TIOCEXCL = 0x540C
TIOCSCTTY = 0x540E
TIOCGPGRP = 0x540F
TIOCSPGRP = 0x5410
TIOCSTI = 0x5412
TIOCGWINSZ = 0x5413
TIOCSWINSZ = 0x5414
FIONREAD = 0x541B
TIOCPKT = 0x5420
TIOCGETD = 0x5424
TIOCGSID = 0x5429
TCGETS2 = 0x802C542A
TCSETS2 = 0x402C542B
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGDEV = 0x80045432
TIOCVHANGUP = 0x5437
TIOCGPKT = 0x80045438
TIOCGPTLCK = 0x80045439
TIOCGEXCL = 0x80045440
TIOCGPTPEER = 0x5441
TIOCGLCKTRMIOS = 0x5456
TIOCSLCKTRMIOS = 0x5457
N_TTY = 0
TCOOFF, TCOON = 0, 1

IXON = 0o2000
IUTF8 = 0o40000
OPOST = 0o1
ISIG, ICANON, ECHO, ECHOE, ECHOK, ECHONL = 0o1, 0o2, 0o10, 0o20, 0o40, 0o100
IEXTEN, EXTPROC = 0o100000, 0o200000
VEOF, VTIME, VMIN, VSTART, VSTOP, VLNEXT, VEOL, VEOL2 = 4, 5, 6, 8, 9, 15, 11, 16
"""Indices of c_cc."""

_TERMIOS2 = struct.Struct("=IIIIB19sII")
_TERMIOS = struct.Struct("=IIIIB19s")
_WINSIZE = struct.Struct("=HHHH")
_INT = struct.Struct("=i")


@dataclass(frozen=True)
class Termios:
    """struct termios2: how a terminal treats what goes through it."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    line: int
    cc: bytes
    """19 control characters."""
    ispeed: int = 0
    """Baud; 0 where the image or the kernel does not tell."""
    ospeed: int = 0

    @property
    def canonical(self) -> bool:
        """Whether input is read line by line."""
        return bool(self.lflag & ICANON) and not self.lflag & EXTPROC


def get_termios(fd: int) -> Termios:
    """Return the settings of terminal FD, of a master those of its slave. OSError (EIO) when it was hung up."""
    return Termios(*_TERMIOS2.unpack(fcntl.ioctl(fd, TCGETS2, bytes(_TERMIOS2.size))))


def set_termios(fd: int, settings: Termios) -> None:
    """Give terminal FD its settings; without speeds those that c_cflag tells."""
    values = (settings.iflag, settings.oflag, settings.cflag, settings.lflag, settings.line, settings.cc)
    if settings.ospeed:
        fcntl.ioctl(fd, TCSETS2, _TERMIOS2.pack(*values, settings.ispeed, settings.ospeed))
    else:
        fcntl.ioctl(fd, TCSETS, _TERMIOS.pack(*values))


def get_locked(fd: int) -> Termios:
    """Return what of the settings of FD may not be changed: bits that are set."""
    return Termios(*_TERMIOS.unpack(fcntl.ioctl(fd, TIOCGLCKTRMIOS, bytes(_TERMIOS.size))))


def set_locked(fd: int, locked: Termios) -> None:
    """Lock settings of FD, unless they are as LOCKED says: that needs CAP_SYS_ADMIN."""
    if get_locked(fd) != locked:
        values = (locked.iflag, locked.oflag, locked.cflag, locked.lflag, locked.line, locked.cc)
        fcntl.ioctl(fd, TIOCSLCKTRMIOS, _TERMIOS.pack(*values))


def get_window(fd: int) -> tuple[int, int, int, int]:
    """Return rows, columns, and width and height in pixels."""
    rows, columns, width, height = _WINSIZE.unpack(fcntl.ioctl(fd, TIOCGWINSZ, bytes(_WINSIZE.size)))
    return rows, columns, width, height


def set_window(fd: int, window: tuple[int, int, int, int]) -> None:
    """Set rows, columns, and width and height in pixels."""
    fcntl.ioctl(fd, TIOCSWINSZ, _WINSIZE.pack(*window))


def ask(fd: int, request: int) -> int:
    """Return the number that REQUEST asks for; 0 for what terminals such as FD do not have (ENOTTY)."""
    try:
        (found,) = _INT.unpack(fcntl.ioctl(fd, request, bytes(_INT.size)))
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        return 0
    return int(found)


def tell(fd: int, request: int, number: int) -> None:
    """Make REQUEST, which takes a pointer to NUMBER."""
    fcntl.ioctl(fd, request, _INT.pack(number))


def is_hung_up(fd: int) -> bool:
    """Tell whether terminal FD was hung up: nothing but closing it makes sense any more."""
    try:
        get_termios(fd)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return True
    return False


def open_slave(master: int, flags: int) -> int:
    """Return a new descriptor of the slave of MASTER, whether that is locked or not (Linux 4.13). F_GETFL shows all of FLAGS."""
    locked = ask(master, TIOCGPTLCK)
    if locked:
        tell(master, TIOCSPTLCK, 0)
    try:
        slave = fcntl.ioctl(master, TIOCGPTPEER, flags | os.O_NOCTTY)
        os.set_inheritable(slave, False)
        return slave
    finally:
        if locked:
            tell(master, TIOCSPTLCK, 1)


def events(fd: int) -> int:
    """Return what poll(2) reports of FD now: POLLIN, POLLPRI, POLLOUT, POLLHUP."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLPRI | select.POLLOUT)
    return next((mask for _fd, mask in poll.poll(0)), 0)


def waiting(fd: int) -> int:
    """Return how many bytes can be read from FD."""
    count = array.array("i", [0])
    fcntl.ioctl(fd, FIONREAD, count)
    return count[0]


def type_in(fd: int, content: bytes) -> None:
    """Put CONTENT into the input of terminal FD as if it was typed; at once, not by way of a work queue. Needs CAP_SYS_ADMIN."""
    for index in range(len(content)):
        fcntl.ioctl(fd, TIOCSTI, content[index : index + 1])


def controlling(pid: int) -> tuple[int, int]:
    """Return the device of the controlling terminal of PID, 0 for none, and the number of its foreground group (proc_pid_stat(5))."""
    fields = text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[7 - 3]) & 0xFFFFFFFF, int(fields[8 - 3])
