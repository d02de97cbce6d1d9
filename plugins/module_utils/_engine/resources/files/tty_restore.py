# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Terminals at a restore: pairs made anew under their numbers, others opened by path, and ours in place of that from outside."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import ImagesError, Obstacle, RestoreError
from ...images.schema import enum
from ...kernel import tty
from ...kernel.tty import Termios
from .controlling_terminal import Control, ControllingTerminals, as_if_in_foreground
from .kind import Entry, KindRestore, RestoreContext, Stub, Task
from .late import LateFiles
from .status import for_open, set_flags
from .tty_queue import Input, input_of, put_input, put_output, unlocked
from .tty_settings import apply_settings, settings_of

_AT_FDCWD = -100
_PTMX = "/dev/ptmx"


@dataclass
class _Pair:
    """What the tree has of one pseudo-terminal: file ids."""

    index: int
    masters: list[int] = field(default_factory=list)
    slaves: list[int] = field(default_factory=list)
    hung: list[int] = field(default_factory=list)
    """Slaves that were hung up."""

    @property
    def is_outer(self) -> bool:
        """Whether the master is outside of the tree."""
        return bool(self.slaves) and not self.masters


class TtyRestore(KindRestore):
    """Makes terminals anew, and makes them control their sessions."""

    def __init__(self, context: RestoreContext) -> None:
        super().__init__(context)
        self._infos: dict[int, Entry] = {}
        self._data: dict[int, Entry] = {}
        self._late = LateFiles(context)
        self._controls = ControllingTerminals(context)
        self._spare: list[int] = []
        """Slaves that no task has, open until the sessions have them for their terminals."""

    def check(self, entries: Mapping[int, Entry]) -> Iterator[Obstacle]:
        """Return what keeps terminals from being made: numbers in use, devices that are gone, no terminal to replace one."""
        self._read(entries)
        types = {number: name for name, number in enum("TtyType").items()}
        for file_id, entry in entries.items():
            kind, path = types[self._info(entry).type], self._path(entry)
            if kind not in ("PTY", "CTTY", "CONSOLE", "VT"):
                yield self._obstacle(file_id, path, f"a terminal of type {kind}, which is not restored", "restore it with CRIU")
            elif kind in ("CONSOLE", "VT") and not os.path.exists(path):
                yield self._obstacle(file_id, path, "the machine does not have it", "restore it where it is, or redirect the program")
        pairs = self._pairs(entries)
        outer = [pair for pair in pairs if pair.is_outer]
        for pair in pairs:
            first, path = min(pair.masters + pair.slaves + pair.hung), f"/dev/pts/{pair.index}"
            if not pair.is_outer:
                if os.path.exists(path):
                    yield self._obstacle(first, path, "its number is in use on this machine", "close the terminal that has it")
            elif not self.context.options.shell_job:
                yield self._obstacle(first, path, "a terminal from outside", "use shell_job, and that of the restore takes its place")
            elif not os.isatty(0):
                yield self._obstacle(first, path, "standard input, to take its place, is no terminal", "restore from a terminal")
            elif pair is not outer[0]:
                yield self._obstacle(first, path, "one of several terminals from outside", "restore it with CRIU")

    def open(self, entries: Mapping[int, Entry]) -> Mapping[int, int]:
        """Make all of them, with what is on its way through them."""
        self._read(entries)
        found: dict[int, int] = {}
        pairs = self._pairs(entries)
        masters = self._open_masters([pair for pair in pairs if not pair.is_outer], entries)
        for pair in pairs:
            found.update(self._stand_in(pair, entries) if pair.is_outer else self._make(pair, masters[pair.index], entries))
        for file_id, entry in entries.items():
            info = self._info(entry)
            if info.type == enum("TtyType")["CTTY"]:
                found[file_id] = self._late.hold_place()
            elif info.type != enum("TtyType")["PTY"]:
                found[file_id] = self._open_device(entry, info)
        return found

    def inherited(self) -> Sequence[int]:
        """Return the terminals that sessions are to have."""
        return self._controls.locals()

    def lead(self, pid: int, stub: Stub) -> None:
        """Give a session its terminal."""
        self._controls.lead(pid, stub)

    def attach(self, stubs: Mapping[int, Stub]) -> None:
        """Give terminals their foreground groups."""
        self._controls.attach(stubs)

    def finish(self, task: Task, entries: Mapping[int, Entry], files: Mapping[int, int]) -> None:
        """Have TASK open the terminal of its session (/dev/tty)."""
        for descriptor in task.descriptors:
            entry = entries.get(descriptor.file_id)
            if entry is not None and self._info(entry).type == enum("TtyType")["CTTY"]:
                path, flags = self._path(entry).encode() + b"\0", for_open(entry.flags)
                self._late.put(task, descriptor, entry, lambda stub: stub.call("openat", _AT_FDCWD, path, flags))  # noqa: B023

    def settle(self) -> None:
        """Close the slaves that no task has."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        while self._spare:
            os.dup2(null, self._spare.pop(), inheritable=False)
        os.close(null)

    def _read(self, entries: Mapping[int, Entry]) -> None:
        images = self.context.images
        infos: Sequence[Entry] = images.read("tty-info") if images.has("tty-info") else ()
        data: Sequence[Entry] = images.read("tty-data") if images.has("tty-data") else ()
        self._infos, self._data = {one.id: one for one in infos}, {one.tty_id: one for one in data}
        for entry in entries.values():
            if entry.tty_info_id not in self._infos:
                path = images.file("tty-info")
                raise ImagesError(f"{path} has no terminal {entry.tty_info_id}, which a file is; use another copy of the dump")

    def _info(self, entry: Entry) -> Entry:
        return self._infos[entry.tty_info_id]

    def _path(self, entry: Entry) -> str:
        """Return where the terminal was opened."""
        place = self.context.entries_of("REG").get(entry.regf_id)
        info = self._info(entry)
        if place is None and info.HasField("pty"):
            return _PTMX if _is_master(info) else f"/dev/pts/{info.pty.index}"
        if place is None:
            raise ImagesError(f"{self.context.images.file('files')} lacks the path of terminal {entry.id}; use another copy of the dump")
        return str(place.name)

    def _obstacle(self, file_id: int, path: str, why: str, remedy: str) -> Obstacle:
        return Obstacle(0, f"{path} ({self.context.holder(file_id)})", why, remedy)

    def _pairs(self, entries: Mapping[int, Entry]) -> list[_Pair]:
        found: dict[int, _Pair] = {}
        for file_id, entry in entries.items():
            info = self._info(entry)
            if info.HasField("pty"):
                pair = found.setdefault(info.pty.index, _Pair(info.pty.index))
                ends = pair.masters if _is_master(info) else pair.slaves if info.HasField("termios") else pair.hung
                ends.append(file_id)
        return [found[index] for index in sorted(found)]

    def _open_masters(self, pairs: Iterable[_Pair], entries: Mapping[int, Entry]) -> dict[int, int]:
        """Return a new master for each of PAIRS under its number: the kernel gives out the lowest one that is free."""
        found: dict[int, int] = {}
        others: list[int] = []
        try:
            for pair in pairs:
                flags = entries[pair.masters[0]].flags if pair.masters else os.O_RDWR
                while pair.index not in found:
                    master = self._open(entries[pair.masters[0]], flags) if pair.masters else os.open(_PTMX, for_open(flags))
                    number = tty.ask(master, tty.TIOCGPTN)
                    if number == pair.index:
                        found[number] = master
                    else:
                        others.append(master)
                    if number > pair.index:
                        raise RestoreError(f"pseudo-terminal {pair.index} is in use on this machine; close what has it, and restore again")
        except BaseException:
            others += found.values()
            raise
        finally:
            for master in others:
                os.close(master)
        return found

    def _open(self, entry: Entry, flags: int) -> int:
        place = self.context.entries_of("REG").get(entry.regf_id)
        if place is None:
            return os.open(self._path(entry), for_open(flags))
        path, root = self.context.place(place)
        return os.open(path, for_open(flags), dir_fd=root)

    def _make(self, pair: _Pair, master: int, entries: Mapping[int, Entry]) -> dict[int, int]:
        """Return our descriptors of both ends of PAIR."""
        tty.tell(master, tty.TIOCSPTLCK, 0)
        found: dict[int, int] = {}
        for file_id in pair.hung:
            found[file_id] = self._open_slave(master, entries[file_id])
            if pair.masters:
                fcntl.ioctl(found[file_id], tty.TIOCVHANGUP)
        if not pair.masters:  # it hangs up those that are there
            os.close(master)
            return found
        for file_id in pair.slaves:
            found[file_id] = self._open_slave(master, entries[file_id])
        self._complete(pair, master, entries)
        for file_id in pair.slaves:
            if self._info(entries[file_id]).exclusive:
                fcntl.ioctl(found[file_id], tty.TIOCEXCL)
        found[pair.masters[0]] = self.context.keep(master)
        set_flags(found[pair.masters[0]], entries[pair.masters[0]].flags)
        return found

    def _open_slave(self, master: int, entry: Entry) -> int:
        shown = entry.flags & os.O_CLOEXEC  # where the program has opened it in the same way
        local = self.context.keep(tty.open_slave(master, for_open(entry.flags) & ~os.O_CLOEXEC | shown))
        set_flags(local, entry.flags)
        return local

    def _complete(self, pair: _Pair, master: int, entries: Mapping[int, Entry]) -> None:
        """Give a pair its settings, its data, and the slave its owner and mode."""
        info, own = self._info(entries[pair.masters[0]]), self._info(entries[pair.masters[0]]).stillframe
        apply_settings(master, info)
        was_opened = not own.unused if info.HasField("stillframe") else info.sid != 0
        if pair.slaves or was_opened:
            spare = self.context.keep(tty.open_slave(master, os.O_RDWR | os.O_NONBLOCK))
            self._spare.append(spare)
            self._fill(pair.index, master, spare, info)
            slave = next((entries[file_id] for file_id in pair.slaves), None)
            place = self.context.entries_of("REG").get(slave.regf_id) if slave is not None else None
            if slave is not None and place is not None and place.mode:
                _give(spare, self._info(slave).uid, self._info(slave).gid, place.mode)
            elif own.mode:
                _give(spare, own.uid, own.gid, own.mode)
            if info.sid:
                self._controls.add(Control(spare, info.sid, info.pgrp))
        if info.packet_mode:
            tty.tell(master, tty.TIOCPKT, 1)
        if info.exclusive:
            fcntl.ioctl(master, tty.TIOCEXCL)
        if info.locked:
            tty.tell(master, tty.TIOCSPTLCK, 1)

    def _fill(self, index: int, master: int, slave: int, info: Entry) -> None:
        """Put what was on its way into a pair; CRIU numbers its ends by twice the index."""
        settings, output = settings_of(info), self._data.get(index << 1 | 1)
        found = self._data.get(index << 1)
        with unlocked(slave):
            put_input(master, slave, settings, input_of(found, settings) if found is not None else Input())
            put_output(slave, settings, output.data if output is not None else b"", info.stillframe.stopped)

    def _open_device(self, entry: Entry, info: Entry) -> int:
        """Open a console or virtual terminal."""
        local = self.context.keep(self._open(entry, entry.flags))
        set_flags(local, entry.flags)
        apply_settings(local, info)
        if info.exclusive:
            fcntl.ioctl(local, tty.TIOCEXCL)
        if info.sid:
            self._controls.add(Control(local, info.sid, info.pgrp))
        return local

    def _stand_in(self, pair: _Pair, entries: Mapping[int, Entry]) -> dict[int, int]:
        """Return our own terminal, opened anew, in place of PAIR; its window is its own, the settings are the tree's."""
        found: dict[int, int] = {}
        for file_id in pair.slaves:
            found[file_id] = self.context.keep(os.open("/proc/self/fd/0", for_open(entries[file_id].flags)))
            set_flags(found[file_id], entries[file_id].flags)
        before, info = tty.get_termios(0), self._info(entries[pair.slaves[0]])
        with as_if_in_foreground():
            apply_settings(0, info, window=False)
        self.context.undo(lambda: _set_back(before))
        self._controls.replace(Control(found[pair.slaves[0]], info.sid, info.pgrp))
        return found


def _is_master(info: Entry) -> bool:
    return bool(info.id & 1)


def _give(slave: int, uid: int, gid: int, mode: int) -> None:
    """Make UID and GID the owners of the file of SLAVE."""
    os.fchown(slave, uid, gid)
    os.fchmod(slave, stat.S_IMODE(mode))


def _set_back(settings: Termios) -> None:
    with as_if_in_foreground():
        tty.set_termios(0, settings)
