# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What is on its way through a pseudo-terminal: what the master has not read, and what the slave has not.

The kernel has no way to look at it. So it is read, and put back at once, with settings under which nothing happens to it
meanwhile: no echo, no signals, no translation. What was in lines stays in lines (termios(3): canonical mode).

images: tty-data (tty_data_entry: what the end of tty_id has not read; stillframe: how it was in lines).
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ...errors import KernelError
from ...images.schema import message
from ...kernel import tty
from ...kernel.tty import Termios
from .kind import Entry

_READ = 1 << 16
_BUFFERED = 4095
"""Bytes that a terminal has treated and keeps for its reader (N_TTY_BUF_SIZE of drivers/tty/n_tty.c); more waits in front of it."""
_STEP, _LAST = 256, 3584
"""Bytes that take a buffer of the smallest size, and that fit into the last one, when the others are used (drivers/tty/tty_buffer.c)."""
_SMALL = 16384
"""Bytes that fit into buffers of the smallest size."""
_PATIENCE, _STEP_TIME = 5.0, 1
"""Seconds for a work queue of the kernel's to make room; milliseconds until that is looked at."""
_NEWLINE, _RETURN = 10, 13


RUNNING, TYPED, ORDERED = 0, 1, 2
"""How the output of a terminal is stopped: not, by the character for it (^S), by tcflow(3)."""


@dataclass(frozen=True)
class Input:
    """What a slave has not read."""

    lines: tuple[bytes, ...] = ()
    """As a read returns them: an end-of-file character at the end does not show. None when not in canonical mode."""
    rest: bytes = b""
    """What is in no line yet."""
    late: bytes = b""
    """What the terminal had no room for, and did not treat yet."""


@dataclass(frozen=True)
class Queues:
    """What is on its way through a pair."""

    output: bytes
    """What the master has not read."""
    input: Input
    stopped: int = RUNNING
    """How the slave's output is stopped."""


def take(master: int, slave: int) -> Queues:
    """Return what MASTER and what SLAVE, which is ours and does not block, has not read; both have it again. OSError, KernelError."""
    settings, stopped = tty.get_termios(slave), RUNNING
    tty.events(slave)  # has the kernel treat what was just written
    output: list[bytes] = []
    lines: list[bytes] = []
    rest: list[bytes] = []
    with _packets_off(master), unlocked(slave):
        try:
            _drain(master, output)
            stopped = _start(slave, settings)
            tty.set_termios(slave, _still(settings))
            if settings.canonical:
                _drain(slave, lines)
                tty.set_termios(slave, _raw(settings))
            _drain(slave, rest)
        finally:
            found = _divide(lines, b"".join(rest))
            try:
                if found.late:
                    _renew_buffer(master, slave, settings)
                put_input(master, slave, settings, found)
            finally:
                put_output(slave, settings, b"".join(output), stopped)
    return Queues(b"".join(output), found, stopped)


def put_output(slave: int, settings: Termios, content: bytes, stopped: int = RUNNING) -> None:
    """Have SLAVE, which has SETTINGS and does not block, write CONTENT as it is, and be STOPPED then.

    KernelError when its master does not take all.
    """
    if content:
        tty.set_termios(slave, replace(settings, oflag=settings.oflag & ~tty.OPOST))
        try:
            _write(slave, content)
        finally:
            tty.set_termios(slave, settings)
    if stopped == TYPED and settings.iflag & tty.IXON:
        tty.type_in(slave, settings.cc[tty.VSTOP : tty.VSTOP + 1])
    elif stopped:
        fcntl.ioctl(slave, tty.TCXONC, tty.TCOOFF)


def put_input(master: int, slave: int, settings: Termios, found: Input) -> None:
    """Put FOUND into the input of SLAVE, and give that SETTINGS. Raises OSError, KernelError when there is no room."""
    try:
        if settings.canonical:
            literal, end = _free_characters(settings)
            tty.set_termios(slave, _typing(settings, literal, end))
            tty.type_in(slave, b"".join(_line(line, settings, literal, end) for line in found.lines))
            tty.type_in(slave, _literally(found.rest, settings, literal, end))
        elif found.rest:
            tty.set_termios(slave, _still(settings))
            tty.type_in(slave, found.rest)
    finally:
        tty.set_termios(slave, settings)
    if found.late:
        with _not_blocking(master):
            _write(master, found.late)


def data_entry(tty_id: int, content: bytes) -> Entry:
    """Return the tty_data_entry of what a master has not read."""
    return message("tty_data_entry")(tty_id=tty_id, data=content)


def input_entry(tty_id: int, found: Input) -> Entry | None:
    """Return the tty_data_entry of what a slave has not read, if there is anything."""
    content = b"".join(found.lines) + found.rest + found.late
    if not content and not found.lines:
        return None
    entry = data_entry(tty_id, content)
    entry.stillframe.lines.extend(map(len, found.lines))
    entry.stillframe.late = len(found.late)
    return entry


def input_of(entry: Entry, settings: Termios) -> Input:
    """Return what ENTRY, a tty_data_entry, holds for a slave with SETTINGS; CRIU does not tell lines."""
    if not entry.HasField("stillframe"):
        whole = tuple(entry.data.splitlines(keepends=True)) if settings.canonical else ()
        ended = tuple(line for line in whole if line.endswith(b"\n"))
        return Input(ended, entry.data[sum(map(len, ended)) :])
    lines: list[bytes] = []
    rest: bytes = entry.data
    for size in entry.stillframe.lines:
        lines.append(rest[:size])
        rest = rest[size:]
    treated = len(rest) - entry.stillframe.late
    return Input(tuple(lines), rest[:treated], rest[treated:])


def _drain(fd: int, into: list[bytes]) -> None:
    """Read all there is; each read is a line in canonical mode."""
    while tty.events(fd) & select.POLLIN:
        into.append(os.read(fd, _READ))


def _start(slave: int, settings: Termios) -> int:
    """Let the output of SLAVE, whose master has read all, go on; return how it was stopped."""
    if tty.events(slave) & select.POLLOUT:
        return RUNNING
    tty.set_termios(slave, replace(settings, iflag=settings.iflag & ~tty.IXON))
    tty.set_termios(slave, settings)
    if tty.events(slave) & select.POLLOUT:
        return TYPED
    fcntl.ioctl(slave, tty.TCXONC, tty.TCOON)
    return ORDERED


def _divide(lines: Sequence[bytes], rest: bytes) -> Input:
    """Return the input that LINES and REST are, what is beyond the buffer being late."""
    room = _BUFFERED
    kept: list[bytes] = []
    for number, line in enumerate(lines):
        if len(line) > room:
            return Input(tuple(kept), line[:room], line[room:] + b"".join(lines[number + 1 :]) + rest)
        kept.append(line)
        room -= len(line)
    return Input(tuple(kept), rest[:room], rest[room:])


def _still(settings: Termios) -> Termios:
    """Return SETTINGS under which what comes in is kept as it is, lines being ended by newlines only."""
    flow = {tty.VSTART, tty.VSTOP}
    cc = bytearray(char if index in flow else 0 for index, char in enumerate(settings.cc))
    cc[tty.VMIN] = 1
    lflag = settings.lflag & ~(tty.ISIG | tty.ECHO | tty.ECHOE | tty.ECHOK | tty.ECHONL | tty.IEXTEN)
    return replace(settings, iflag=settings.iflag & (tty.IXON | tty.IUTF8), lflag=lflag, cc=bytes(cc))


def _raw(settings: Termios) -> Termios:
    """Return SETTINGS under which all can be read that is in no line yet."""
    still = _still(settings)
    return replace(still, lflag=still.lflag & ~tty.ICANON)


def _typing(settings: Termios, literal: int, end: int) -> Termios:
    """Return SETTINGS under which lines can be put in: LITERAL precedes what is to be taken as it is, END ends without a trace."""
    still, cc = _still(settings), bytearray(_still(settings).cc)
    cc[tty.VLNEXT], cc[tty.VEOF], cc[tty.VEOL], cc[tty.VEOL2] = literal, end, settings.cc[tty.VEOL], settings.cc[tty.VEOL2]
    return replace(still, lflag=still.lflag | tty.IEXTEN, cc=bytes(cc))


def _free_characters(settings: Termios) -> tuple[int, int]:
    """Return two characters that mean nothing in SETTINGS."""
    free = [char for char in range(1, 32) if char not in {*settings.cc, _NEWLINE, _RETURN}]
    return free[0], free[1]


def _line(line: bytes, settings: Termios, literal: int, end: int) -> bytes:
    """Return what is to be typed for LINE."""
    if line and line[-1] in {_NEWLINE, *_ends(settings)}:
        return _literally(line[:-1], settings, literal, end) + line[-1:]
    return _literally(line, settings, literal, end) + bytes([end])


def _literally(content: bytes, settings: Termios, literal: int, end: int) -> bytes:
    """Return what is to be typed so that CONTENT is taken as it is."""
    special = {_NEWLINE, _RETURN, literal, end, settings.cc[tty.VSTART], settings.cc[tty.VSTOP], *_ends(settings)}
    return b"".join(bytes([literal, char]) if char in special else bytes([char]) for char in content)


def _ends(settings: Termios) -> set[int]:
    return {settings.cc[tty.VEOL], settings.cc[tty.VEOL2]} - {0}


def _write(fd: int, content: bytes) -> None:
    """Write CONTENT in the way that takes least of the kernel's memory for it, which is limited: what was there must fit again."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    deadline, last = time.monotonic() + _PATIENCE, _LAST if len(content) > _SMALL else 0
    while content:
        size = _STEP if len(content) > last else last
        try:
            content = content[os.write(fd, content[:size]) :]
        except BlockingIOError as error:
            poll.poll(_STEP_TIME)  # the kernel does not tell when it has freed a buffer
            if time.monotonic() > deadline:
                raise KernelError(f"a terminal does not take {len(content)} bytes that were in it; use another copy of the dump") from error


def _renew_buffer(master: int, slave: int, settings: Termios) -> None:
    """Have the kernel put away the buffer that was read last, which may be a big one; it does so when others come behind it."""
    tty.set_termios(slave, _raw(settings))
    for _step in range(2 + _LAST // _STEP):
        os.write(master, bytes(_STEP))
        read = 0
        while read < _STEP:
            if tty.events(slave) & select.POLLIN:
                read += len(os.read(slave, _STEP - read))


@contextmanager
def unlocked(fd: int) -> Iterator[None]:
    """Let all settings of terminal FD be changed."""
    locked = tty.get_locked(fd)
    tty.set_locked(fd, replace(locked, iflag=0, oflag=0, cflag=0, lflag=0, line=0, cc=bytes(len(locked.cc))))
    try:
        yield
    finally:
        tty.set_locked(fd, locked)


@contextmanager
def _packets_off(master: int) -> Iterator[None]:
    """Have MASTER read nothing but what was written; there is no change of state that it has not been told (TIOCPKT)."""
    mode = tty.ask(master, tty.TIOCGPKT)
    if mode:
        tty.tell(master, tty.TIOCPKT, 0)
    try:
        yield
    finally:
        if mode:
            tty.tell(master, tty.TIOCPKT, 1)


@contextmanager
def _not_blocking(fd: int) -> Iterator[None]:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        yield
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
