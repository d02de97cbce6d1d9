# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""System V semaphores and message queues that a process of the tree was the last to use, in the IPC namespace of the caller.

They belong to nobody and outlive the tree. So a restore takes those that are there, unless a process outside has used them since,
with the values and messages of the dump, or makes them anew under their ids. What the kernel undoes when a process ends (SEM_UNDO)
can be read by nobody.
images: ipcns-sem-3 (ipc_sem_entry, the values behind it), ipcns-msg-3 (ipc_msg_entry, then ipc_msg and content of each message;
CRIU has them of IPC namespaces of their own).
"""

from __future__ import annotations

import os
from typing import Any, Iterator, List, Sequence, Tuple

from ..errors import Obstacle, RestoreError
from ..images.image import Entry, ImagesDir
from ..images.schema import message
from ..kernel import procfs, sysvipc_objects
from ..kernel.kcmp import KCMP_SYSVSEM, kcmp
from ..kernel.sysvipc import IPC_PRIVATE
from ..kernel.sysvipc_objects import QUEUES, SEMAPHORES, IpcObject

_NAMES = {SEMAPHORES: "System V semaphores", QUEUES: "System V message queue"}
_Wanted = Tuple[str, Any, Any]
"""A kind, its ipc_…_entry, and the values of semaphores or (type, content) of each message."""


class ObjectsDump:
    """The objects of a tree while it is dumped."""

    def __init__(self) -> None:
        self._semaphores: List[Entry] = []
        self._queues: List[Entry] = []
        self.warnings: List[str] = []

    def collect(self, pids: Sequence[int]) -> None:
        """Read what PIDS, which stand still, have used. Raises OSError."""
        for one in sysvipc_objects.objects().values():
            if set(one.users) & set(pids):
                (self._add_semaphores if one.kind == SEMAPHORES else self._add_queue)(one)
        if self._semaphores:
            self.warnings += [
                f"process {pid}: what it may have done to semaphores with SEM_UNDO is not undone when it ends after a restore"
                for pid in pids
                if kcmp(pid, os.getpid(), KCMP_SYSVSEM)  # we have nothing to undo; one with threads always may have
            ]

    def write(self, images: ImagesDir) -> None:
        """Write what was read."""
        for kind, entries in ((SEMAPHORES, self._semaphores), (QUEUES, self._queues)):
            if entries:
                images.write(_image(kind), entries)

    def _add_semaphores(self, one: IpcObject) -> None:
        entry = message("ipc_sem_entry")(desc=_description(one), nsems=one.held)
        self._semaphores.append(Entry(entry, sysvipc_objects.values(one)))

    def _add_queue(self, one: IpcObject) -> None:
        room = sysvipc_objects.queue_bytes(one.id)
        self._queues.append(Entry(message("ipc_msg_entry")(desc=_description(one), qbytes=room, qnum=one.held)))
        for kind, content in sysvipc_objects.messages(one):
            self._queues.append(Entry(message("ipc_msg")(mtype=kind, msize=len(content)), content))


class ObjectsRestore:
    """Makes the objects of a dump again, or takes those that are still there. What it made goes with `undo`."""

    def __init__(self, images: ImagesDir) -> None:
        self._wanted = list(_read(images))
        self._pids = {int(name[len("ids-") :]) for name in images.names() if name.startswith("ids-")} if self._wanted else set()
        self._made: List[Tuple[str, int]] = []

    def check(self) -> Iterator[Obstacle]:
        """Yield the ids and keys that others have."""
        found = sysvipc_objects.objects() if self._wanted else {}
        keys = {(one.kind, one.key): one.id for one in found.values() if one.key != IPC_PRIVATE}
        for kind, entry, _content in self._wanted:
            where, other = f"{_NAMES[kind]} {entry.desc.id}", found.get((kind, entry.desc.id))
            remedy = "remove what is there (ipcrm), if nobody needs it"
            if other is not None and not _is_same(other, entry):
                yield Obstacle(0, where, "its id is used for another", remedy)
            elif other is None and (kind, _key(entry)) in keys:
                yield Obstacle(0, where, f"its key is that of {keys[kind, _key(entry)]}", remedy)

    def open(self) -> None:
        """Make them, and give them what they held. Raises OSError, RestoreError."""
        found = sysvipc_objects.objects() if self._wanted else {}
        for kind, entry, content in self._wanted:
            one = found.get((kind, entry.desc.id)) or self._make(kind, entry)
            if not any(self._is_other(pid) for pid in one.users):
                _fill(one, content)

    def keep(self) -> None:
        """Let them stay: the tree is complete."""
        self._made.clear()

    def undo(self) -> None:
        """Remove what was made, unless it is to stay."""
        while self._made:
            sysvipc_objects.remove(*self._made.pop())

    def _is_other(self, pid: int) -> bool:
        return pid not in {0, os.getpid(), *self._pids} and procfs.lives(pid)

    def _make(self, kind: str, entry: Any) -> IpcObject:
        description = entry.desc
        count = entry.nsems if kind == SEMAPHORES else 0
        creator = (description.cuid, description.cgid)
        made = sysvipc_objects.create(kind, description.id, _key(entry), description.mode, count, creator)
        self._made.append((kind, made))
        if made != description.id:
            raise RestoreError(f"{_NAMES[kind]} {description.id} cannot be made: its id is taken; restore again")
        room = 0 if kind == SEMAPHORES else entry.qbytes
        sysvipc_objects.set_owner(kind, made, description.uid, description.gid, description.mode, room)
        return sysvipc_objects.objects()[kind, made]


def _image(kind: str) -> str:
    """Return the name of the image; 3 is the id of the IPC namespace in the ids of every task (resources/inventory.py)."""
    return f"ipcns-{kind}-3"


def _description(one: IpcObject) -> Any:
    return message("ipc_desc_entry")(
        key=one.key & 0xFFFFFFFF, uid=one.uid, gid=one.gid, cuid=one.cuid, cgid=one.cgid, mode=one.mode, id=one.id
    )


def _read(images: ImagesDir) -> Iterator[_Wanted]:
    for kind in (SEMAPHORES, QUEUES):
        entries = list(images.entries(_image(kind))) if images.has(_image(kind)) else []
        while entries:
            head = entries.pop(0)
            if kind == SEMAPHORES:
                yield kind, head.message, head.payload
                continue
            held: Any = head.message
            own, entries = entries[: held.qnum], entries[held.qnum :]
            yield kind, held, [(one.message.mtype, one.payload) for one in own]


def _key(entry: Any) -> int:
    """Return the key, a signed number, of ENTRY."""
    return int(entry.desc.key) - (1 << 32 if entry.desc.key >> 31 else 0)


def _is_same(one: IpcObject, entry: Any) -> bool:
    """Tell whether ONE, which has the id of ENTRY, is what that tells of."""
    alike = (one.key, one.cuid, one.cgid) == (_key(entry), entry.desc.cuid, entry.desc.cgid)
    return alike and (one.kind == QUEUES or one.held == entry.nsems)


def _fill(one: IpcObject, content: Any) -> None:
    if one.kind == SEMAPHORES:
        sysvipc_objects.set_values(one.id, content, sysvipc_objects.values(one))
    else:
        sysvipc_objects.set_messages(one.id, one.size, content)
