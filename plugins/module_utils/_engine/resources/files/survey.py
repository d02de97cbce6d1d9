# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every descriptor of a tree, in tables that tasks may share."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from collections.abc import Iterable, Sequence

from ...errors import KernelError, TargetError
from ...kernel import kcmp
from ...kernel.fdinfo import descriptors, fdinfo
from .descriptor_limit import allow_descriptors
from .copies import CHANGED, Copies
from .in_flight import InFlight, carries_files, receive_copies
from .kind import OpenFile

_ATTEMPTS = 20
"""At a descriptor that is always there when it is listed and closed when it is copied; in a stopped task the first one succeeds."""


@dataclass(frozen=True)
class Table:
    """One descriptor table: the tasks that share it (CLONE_FILES) and its descriptors by number."""

    pids: tuple[int, ...]
    files: tuple[OpenFile, ...]


class Survey:
    """The descriptors of a tree at one moment. Holds copies of those that are in flight until closed."""

    def __init__(self, leave_out: frozenset[tuple[int, int]]) -> None:
        self._leave_out = leave_out
        self._stopped = False
        self._received: list[int] = []
        self.copies = Copies()
        self.tables: list[Table] = []
        self.in_flight: dict[int, tuple[InFlight, ...]] = {}
        """Files on their way through unix sockets (SCM_RIGHTS), in the order of their arrival, by the inode number of the socket."""

    def take(self, pids: Sequence[int], stopped: bool) -> None:
        """Look at every descriptor of PIDS, which stand still if STOPPED.

        TargetError when one of them is gone, KernelError when it may not be looked at.
        """
        self._stopped = stopped
        groups = [tuple(pids[index] for index in group) for group in kcmp_groups(pids)]
        for owners in groups:
            try:
                self.tables.append(Table(owners, tuple(self._files(owners))))
            except (FileNotFoundError, ProcessLookupError) as error:
                raise TargetError(f"process {owners[0]} has ended; name one that runs") from error
            except PermissionError as error:
                raise KernelError(f"the descriptors of process {owners[0]} cannot be read ({error}); run as root") from error

    def take_in_flight(self) -> None:
        """Look at the files that wait in unix sockets. Unless the tree stands still, only at those of the first message of each."""
        carriers: list[OpenFile] = [file for file in self.files() if carries_files(file)]
        for carrier in carriers:  # those that are found in a socket may be sockets themselves
            if carrier.stat.st_ino not in self.in_flight:
                allow_descriptors(int(carrier.info.values["scm_fds"]) + len(os.listdir("/proc/self/fd")))
                copies = self._receive(carrier)
                self._received += copies
                found = tuple(self._in_flight(local, carrier) for local in copies)
                self.in_flight[carrier.stat.st_ino] = found
                carriers += [file for file in found if carries_files(file)]

    def files(self) -> list[OpenFile]:
        """Return every file met: descriptors, then what is on its way."""
        held: list[OpenFile] = [file for table in self.tables for file in table.files]
        return held + [file for files in self.in_flight.values() for file in files]

    def descriptions(self) -> list[list[OpenFile]]:
        """Return the files, those that share one open file together, in the order in which they were met."""
        files = self.files()
        alike: dict[tuple[int, int], list[int]] = {}
        for index, file in enumerate(files):
            alike.setdefault((file.stat.st_dev, file.stat.st_ino), []).append(index)
        found: list[list[int]] = []
        for indices in alike.values():
            groups = kcmp.group(kcmp.KCMP_FILE, [files[index].key for index in indices])
            found += [[indices[position] for position in group] for group in groups]
        return [[files[index] for index in group] for group in sorted(found)]

    def _receive(self, carrier: OpenFile) -> list[int]:
        try:
            return receive_copies(carrier, self._stopped)
        except OSError as error:
            if self._stopped or error.errno not in CHANGED:
                raise
            return []  # closed meanwhile
        finally:
            self.copies.drop()

    def close(self) -> None:
        """Drop our copies."""
        self.copies.close()
        while self._received:
            os.close(self._received.pop())

    def _files(self, pids: Sequence[int]) -> Iterable[OpenFile]:
        for fd in descriptors(pids[0]):
            if not any((owner, fd) in self._leave_out for owner in pids):
                file = self._file_if_open(pids[0], fd)
                if file is not None:
                    yield file

    def _file_if_open(self, pid: int, fd: int) -> OpenFile | None:
        """Return what FD is; None when it was closed since it was listed. A running task may close and open it again and again."""
        for _attempt in range(_ATTEMPTS - 1):
            try:
                return self._file(pid, fd)
            except OSError as error:
                if error.errno not in CHANGED:
                    raise
                if fd not in descriptors(pid):
                    return None
        return self._file(pid, fd)

    def _file(self, pid: int, fd: int) -> OpenFile:
        path = f"/proc/{pid}/fd/{fd}"
        link = os.readlink(path)
        found = OpenFile(pid, fd, os.stat(path), link, fdinfo(pid, fd), self.copies)
        if not self._stopped and os.readlink(path) != link:  # a task closed it and opened another meanwhile
            raise OSError(errno.ESTALE, f"{path} is another file now")
        return found

    def _in_flight(self, local: int, carrier: OpenFile) -> InFlight:
        us, link = os.getpid(), os.readlink(f"/proc/self/fd/{local}")
        return InFlight(us, local, os.fstat(local), link, fdinfo(us, local), self.copies, carrier)


def kcmp_groups(pids: Sequence[int]) -> list[list[int]]:
    """Return the indices of PIDS in groups that share one descriptor table. TargetError when one is gone."""
    try:
        return kcmp.group(kcmp.KCMP_FILES, [(pid, 0) for pid in pids])
    except ProcessLookupError as error:
        raise TargetError("a process of the tree has ended; dump it again") from error
    except PermissionError as error:
        raise KernelError(f"the processes of the tree cannot be compared ({error}); run as root") from error
