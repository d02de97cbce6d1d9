# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Terminals: pseudo-terminals of the tree, both ends with what is on its way between them; /dev/tty, consoles, virtual terminals.

A slave whose master is held outside of the tree is the terminal that the tree was started from (shell_job): at the restore
that of the restore, its standard input, takes its place.

images: files.img (tty_file_entry, and a reg_file_entry for the path of each), tty-info (tty_info_entry, one for each end of
each terminal), tty-data (see tty_queue).
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator
from contextlib import suppress

from ...errors import Obstacle
from ...images.image import ImagesDir
from ...images.schema import enum, message
from ...kernel import procfs, tty
from ...target import ancestors
from ..credentials import own_capabilities
from .in_flight import InFlight
from .kind import Description, DumpContext, Entry, Kind, KindDump, OpenFile
from .tty_queue import data_entry, input_entry, take
from .tty_restore import TtyRestore
from .tty_settings import read_settings

PTY, CONSOLE, VT, CTTY = "PTY", "CONSOLE", "VT", "CTTY"
"""Of CRIU's enum TtyType."""
PTY_SLAVE_MAJOR, AUX_MAJOR, TTY_MAJOR = 136, 5, 4
_AUX = {0: CTTY, 1: CONSOLE, 2: PTY}
_CONSOLES = 64
"""Documentation/admin-guide/devices.txt."""
_PLACES = {CONSOLE: 1002, VT: 1004, CTTY: 1006}
_OTHER_PLACES = range(1013, 1077)
"""CRIU numbers an end of a terminal by twice its index, or by these where it has none, plus 1 for a master (criu/tty.c)."""
_CAP_SYS_ADMIN = 21
_DELETED = " (deleted)"
_SHELL_JOB = (
    "use shell_job, and the terminal of the restore takes its place; or start the program with its input and output redirected, "
    "for example: setsid PROGRAM </dev/null >LOG 2>&1"
)


def type_of(file: OpenFile) -> str:
    """Return the TtyType of FILE, empty when it is no terminal that is carried."""
    if not stat.S_ISCHR(file.stat.st_mode) or file.flags & os.O_PATH:
        return ""
    major, minor = os.major(file.stat.st_rdev), os.minor(file.stat.st_rdev)
    if major == PTY_SLAVE_MAJOR:
        return PTY
    if major == TTY_MAJOR:
        return VT if minor < _CONSOLES else ""
    return _AUX.get(minor, "") if major == AUX_MAJOR else ""


def is_master(file: OpenFile) -> bool:
    """Tell whether FILE is the master of a pseudo-terminal."""
    return type_of(file) == PTY and os.major(file.stat.st_rdev) == AUX_MAJOR


def device_of(file: OpenFile) -> int:
    """Return the device of the terminal that FILE is an end of, of a master that of its slave. OSError when it was hung up."""
    return tty.ask(file.local, tty.TIOCGDEV)


class TtyDump(KindDump):
    """Dumps terminals."""

    def __init__(self, context: DumpContext) -> None:
        super().__init__(context)
        self._infos: dict[tuple[str, int, bool, bool], Entry] = {}
        self._data: list[Entry] = []
        self._taken: set[int] = set()
        self._stopped: dict[int, int] = {}
        """By device."""

    def check(self, file: OpenFile) -> Iterator[Obstacle]:
        """Return what keeps a terminal from being carried."""
        kind = type_of(file)
        if kind != PTY and isinstance(file, InFlight):
            yield file.obstacle("a terminal that only a process can open", "have the program receive it")
        elif tty.is_hung_up(file.local):
            if kind != PTY:
                yield file.obstacle("a terminal that was hung up", "have the program close it")
        elif tty.ask(file.local, tty.TIOCGETD) != tty.N_TTY:
            yield file.obstacle("a terminal that speaks a protocol of its own (line discipline)", "have the program end that")
        elif is_master(file):
            yield from self._check_master(file)
        else:
            yield from self._check_outer(file)

    def collect(self, description: Description) -> Entry:
        """Return the tty_file_entry, having added its path, and take what is on its way."""
        file = description.file
        path_id = self.context.new_id()
        self.context.add("REG", self._path(path_id, description))
        info = self._info(file)
        self._take_queues(file)
        return message("tty_file_entry")(
            id=description.file_id, tty_info_id=info.id, flags=file.flags, fown=description.fown, regf_id=path_id
        )

    def write(self, images: ImagesDir) -> None:
        """Write the settings and the data."""
        for (kind, device, master, _hung), info in self._infos.items():
            if kind == PTY and master and device in self._stopped:
                info.stillframe.stopped = self._stopped[device]
        images.write("tty-info", list(self._infos.values()))
        if self._data:
            images.write("tty-data", self._data)

    def _check_master(self, file: OpenFile) -> Iterator[Obstacle]:
        if tty.events(file.local) & select.POLLPRI:
            yield file.obstacle("a change of state is not read yet (packet mode, TIOCPKT)", "dump it again")
        if not own_capabilities().effective >> _CAP_SYS_ADMIN & 1:
            yield file.obstacle("what is on its way through it can be kept with CAP_SYS_ADMIN only", "run as root")
        user = next(self._users_outside(device_of(file)), 0)
        if user:
            yield file.obstacle(f"its slave is the terminal of process {user}, outside of the tree", "dump a tree that has both")

    def _users_outside(self, device: int) -> Iterator[int]:
        """Yield the processes outside of the tree that DEVICE controls: they would read and write while it is looked at."""
        ours = set(self.context.pids())
        for pid in procfs.processes():
            with suppress(*procfs.GONE):  # children of the tree may come while it runs
                if tty.controlling(pid)[0] == device and not ours & {pid, *ancestors(pid)} and procfs.lives(pid):
                    yield pid

    def _check_outer(self, file: OpenFile) -> Iterator[Obstacle]:
        """Refuse a terminal that is held or controlled from outside, unless it is to be replaced, and what cannot be told apart then."""
        device = device_of(file)
        if type_of(file) == CTTY and tty.controlling(file.pid)[0] != device:
            yield file.obstacle("it is the terminal of a session that the process has left", "have the program close it")
        is_slave = os.major(device) == PTY_SLAVE_MAJOR
        if self._master(device) is not None if is_slave else not self._is_led_outside(device):
            return
        if not self.context.options.shell_job:
            why = "its master is held by a process outside of the tree" if is_slave else "a process outside of the tree leads its session"
            yield file.obstacle(f"a terminal from outside: {why}", _SHELL_JOB)
        elif any(other != device for other in self._outer_devices()):
            yield file.obstacle("one of several terminals from outside of the tree", "redirect all but one: one terminal takes their place")

    def _outer_devices(self) -> set[int]:
        """Return the devices of the slaves whose masters are outside."""
        slaves = [file for file in self.context.files() if type_of(file) == PTY and not is_master(file) and not tty.is_hung_up(file.local)]
        return {file.stat.st_rdev for file in slaves if self._master(file.stat.st_rdev) is None}

    def _is_led_outside(self, device: int) -> bool:
        """Tell whether DEVICE controls a session of the tree whose leader is not in it."""
        pids = self.context.pids()
        return any(tty.controlling(pid)[0] == device and procfs.stat(pid).session not in pids for pid in pids)

    def _master(self, device: int) -> OpenFile | None:
        """Return the master of the slave DEVICE, if the tree has it."""
        masters = (file for file in self.context.files() if is_master(file))
        return next((file for file in masters if device_of(file) == device), None)

    def _path(self, path_id: int, description: Description) -> Entry:
        """Return the reg_file_entry of where the terminal was opened."""
        file = description.file
        name = file.link[: -len(_DELETED)] if file.link.endswith(_DELETED) else file.link
        mode, fown = file.stat.st_mode, description.fown
        entry = message("reg_file_entry")(id=path_id, flags=file.flags, pos=0, fown=fown, name=name, mode=mode)
        if self.context.view.outside(file.local):
            entry.stillframe_outside = True
        return entry

    def _info(self, file: OpenFile) -> Entry:
        """Return the tty_info_entry of this end of its terminal, made once."""
        kind, hung = type_of(file), tty.is_hung_up(file.local)
        device = file.stat.st_rdev if hung or kind == CONSOLE else device_of(file)
        key = (kind, device, is_master(file), hung)
        if key not in self._infos:
            self._infos[key] = self._new_info(file, kind, device, hung)
        return self._infos[key]

    def _new_info(self, file: OpenFile, kind: str, device: int, hung: bool) -> Entry:
        place = self._place(kind, device, hung)
        sid, pgrp = (0, 0) if hung else self._control(device_of(file))
        info = message("tty_info_entry")(
            id=place << 1 | is_master(file), type=enum("TtyType")[kind], sid=sid, pgrp=pgrp, rdev=file.stat.st_rdev,
            dev=file.stat.st_dev, uid=file.stat.st_uid, gid=file.stat.st_gid, locked=False, exclusive=False, packet_mode=False,
        )  # fmt: skip
        if kind == PTY:
            info.pty.index = os.minor(device)
        if hung:
            return info
        info.exclusive = bool(tty.ask(file.local, tty.TIOCGEXCL))
        if kind == PTY:
            info.locked, info.packet_mode = bool(tty.ask(file.local, tty.TIOCGPTLCK)), bool(tty.ask(file.local, tty.TIOCGPKT))
        read_settings(file.local, info)
        if is_master(file):
            self._add_slave(file, device, info)
        return info

    @staticmethod
    def _add_slave(file: OpenFile, device: int, info: Entry) -> None:
        """Note what nobody can tell from a slave that is not open: whether it ever was, and who may open it."""
        info.stillframe.unused = not tty.events(file.local) & select.POLLHUP
        try:
            node = os.stat(f"/dev/pts/{os.minor(device)}")
        except FileNotFoundError:  # in a mount namespace of its own
            return
        if node.st_rdev == device:
            info.stillframe.mode, info.stillframe.uid, info.stillframe.gid = node.st_mode, node.st_uid, node.st_gid

    def _place(self, kind: str, device: int, hung: bool) -> int:
        """Return the index that CRIU's number of an end of the terminal is made of; where it has one for several, those get others."""
        if kind == PTY and not (hung and self._master(device)):
            return os.minor(device)
        used = {info.id >> 1 for info in self._infos.values()}
        place: int = next(place for place in (_PLACES.get(kind, _OTHER_PLACES[0]), *_OTHER_PLACES) if place not in used)
        return place

    def _control(self, device: int) -> tuple[int, int]:
        """Return the session that DEVICE controls and its foreground group, zeros when there is none in the tree."""
        for pid in self.context.pids():
            found, group = tty.controlling(pid)
            if found == device:
                return procfs.stat(pid).session, max(group, 0)
        return 0, 0

    def _take_queues(self, file: OpenFile) -> None:
        """Take what is on its way through the pair that FILE is an end of, once, if the tree has its master."""
        if type_of(file) != PTY or tty.is_hung_up(file.local):
            return
        device = device_of(file)
        master = self._master(device)
        if master is None or device in self._taken or not self._was_opened(master, device):
            return
        self._taken.add(device)
        slave = tty.open_slave(master.local, os.O_RDWR | os.O_NONBLOCK)
        try:
            found = take(master.local, slave)
        finally:
            os.close(slave)
        number = os.minor(device) << 1
        waiting = input_entry(number, found.input)
        self._data += ([data_entry(number | 1, found.output)] if found.output else []) + ([waiting] if waiting is not None else [])
        if found.stopped:
            self._stopped[device] = found.stopped

    def _was_opened(self, master: OpenFile, device: int) -> bool:
        """Tell whether the slave is open or was: else opening it would change what MASTER reads."""
        return bool(tty.events(master.local) & select.POLLHUP) or any(file.stat.st_rdev == device for file in self.context.files())


TTYS = Kind("TTY", "tty", lambda file: bool(type_of(file)), TtyDump, TtyRestore)
