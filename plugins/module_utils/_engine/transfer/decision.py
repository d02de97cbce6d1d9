# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The decision that a tree runs on the other host: two-phase commit, so that it runs on one host, never on both.

The source decides. Until then either end may give up: the source lets the tree go on, and the stubs of the destination are
killed, by the kernel if need be (PTRACE_O_EXITKILL). The messages, once the last round is sent:

  READY    destination: all is built and verified; only the go is missing. It never goes without COMMIT.
  (source) SIGSTOP to every process that is not stopped already. This is the decision: it outlasts the engine, for should that be
           killed now, the kernel lets the tree go but leaves it stopped. Then what was decided is written down.
  COMMIT   source: go. The destination writes down which processes they are, lets them go, and answers RUNNING, or ABORT
           when it could not.
  RUNNING  the source kills its tree.   ABORT: the source lets its tree go on (SIGCONT).

When the connection is lost between READY and RUNNING, the source connects again and asks (SETTLE). The answers (STATE):
waiting (no COMMIT came: the source sends it again), running, gone (nothing of the tree is there, and it will not come).
The destination waits for that up to its decision_timeout, and then gives up; a source that has not decided is running by then.
A receiver that is started later answers as well, from what was written down: the tree runs if a process with that number and
start time does. So a source that could not ask in its own decision_timeout leaves the tree stopped, says so (InDoubt), and can
ask at any later time (`settle`). Nothing but asking can tell: the last message of any protocol can be lost.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from ..errors import InDoubt, KernelError, MoveError
from ..kernel import procfs
from ..options import Connect
from ..tracee.freeze import FrozenTree
from ..tracking.state import DIRECTORY
from .codec import pack, unpack
from .wire import ABORT, COMMIT, RUNNING, SETTLE, STATE, Link

WAITING, RUNS, GONE = "waiting", "running", "gone"
_SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SUFFIX = ".move"
_STEP = 0.1
"""Seconds between two attempts to connect: no event tells that a host can be reached again."""


@dataclass(frozen=True)
class Record:
    """What is written down of a decision: which processes stand for the tree on this host."""

    session: str
    processes: tuple[tuple[int, int], ...]
    """Each with its start time, in clock ticks since boot."""
    stopped: tuple[int, ...] = ()
    """On the source: those that the decision has stopped."""
    lock_table: str = ""
    """On the source: the table that drops the packets of its connections once they have moved, if it has any."""


def is_session(text: object) -> bool:
    """Tell whether TEXT is the name of a session."""
    return isinstance(text, str) and bool(_SESSION.fullmatch(text))


def identities(pids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return PIDS with their start times. Raises OSError."""
    return tuple((pid, procfs.stat(pid).start_time) for pid in pids)


def write_down(role: str, record: Record) -> None:
    """Keep RECORD until the next boot; ROLE is source or destination. Raises KernelError."""
    path = _path(role, record.session)
    try:
        os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
        with open(os.open(path + ".partial", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(record), file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".partial", path)
    except OSError as error:
        raise KernelError(f"the decision cannot be written down in {DIRECTORY} ({error.strerror}); make it writable") from error


def read_down(role: str, session: str) -> Record | None:
    """Return what was written down of SESSION, None when nothing was."""
    try:
        with open(_path(role, session), encoding="utf-8") as file:
            values = json.load(file)
        processes = tuple((int(pid), int(start)) for pid, start in values["processes"])
        return Record(values["session"], processes, tuple(values["stopped"]), str(values.get("lock_table", "")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def strike_out(role: str, session: str) -> None:
    """Forget what was written down of SESSION."""
    with suppress(OSError):
        os.unlink(_path(role, session))


def all_stopped(record: Record) -> bool:
    """Tell whether the decision of RECORD was made: all were stopped by it. Only after that can COMMIT have been sent."""
    return all(procfs.stat(pid).state in "TZX" for pid in record.stopped)


def undecided(pid: int) -> Record | None:
    """Return what was written down of the move that left the tree under PID stopped on this host, None when none did."""
    for session in _sessions("source"):
        record = read_down("source", session)
        if record is not None and record.processes and record.processes[0][0] == pid and _is_there(*record.processes[0]):
            return record
    return None


def prune(role: str) -> None:
    """Forget the decisions whose processes are all gone: they tell no more than none."""
    for session in _sessions(role):
        record = read_down(role, session)
        if record is None or not any(_is_there(*one) for one in record.processes):
            strike_out(role, session)


def _sessions(role: str) -> list[str]:
    """Return the sessions of which something was written down."""
    names, own = os.listdir(DIRECTORY) if os.path.isdir(DIRECTORY) else [], f"{procfs.numbering()}-{role}-"
    sessions = [name[len(own) : -len(_SUFFIX)] for name in names if name.startswith(own) and name.endswith(_SUFFIX)]
    return [session for session in sessions if is_session(session)]


def _is_there(pid: int, start: int) -> bool:
    """Tell whether the process PID that started at START lives."""
    with suppress(*procfs.GONE):
        return procfs.stat(pid).start_time == start and procfs.lives(pid)
    return False


def _path(role: str, session: str) -> str:
    return os.path.join(DIRECTORY, f"{procfs.numbering()}-{role}-{session}{_SUFFIX}")


def state_here(session: str) -> str:
    """Return whether the tree of SESSION runs on this host, RUNS or GONE, as far as it was received here."""
    record = read_down("destination", session)
    return RUNS if record and record.processes and _is_there(*record.processes[0]) else GONE


class Decision:
    """The decision of a source about TREE, which stands still."""

    def __init__(self, session: str, tree: FrozenTree, connect: Connect, link_timeout: float, timeout: float, lock_table: str = "") -> None:
        self._session = session
        self._lock_table = lock_table
        self._tree = tree
        self._connect = connect
        self._link_timeout = link_timeout
        self._timeout = timeout

    def carry_out(self, link: Link) -> None:
        """Have the destination go, by LINK or a new connection; the tree must end then.

        Raises MoveError when it could not go, and the tree goes on here, and InDoubt when that cannot be told: it is left stopped.
        What was decided stays written down for `end`.
        """
        stopped = tuple(task.pid for task in self._tree.tasks if not task.stop_signal)
        write_down("source", Record(self._session, identities(self._tree.pids), stopped, self._lock_table))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        reason = self._outcome(link)
        if reason:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            strike_out("source", self._session)
            raise MoveError(reason)

    def end(self) -> None:
        """End the tree here. Only then is forgotten what was decided: should the engine be killed before, it can be settled."""
        self._tree.kill()
        strike_out("source", self._session)

    def _outcome(self, link: Link) -> str:
        """Return why the destination does not run the tree, empty when it does. Raises InDoubt."""
        try:
            return _commit(link)
        except MoveError as error:
            return ask(self._session, self._connect, self._link_timeout, self._timeout, lost=str(error))


def _commit(link: Link) -> str:
    link.send(COMMIT)
    frame = link.receive()
    if frame.kind not in (RUNNING, ABORT):
        raise MoveError("the destination gave no answer to the decision")
    with suppress(MoveError):
        link.send(SETTLE)  # it need not wait for us any more
    if frame.kind == RUNNING:
        return ""
    return bytes(frame.body[:2000]).decode("utf-8", "replace") or "the destination gave up"


def ask(session: str, connect: Connect, link_timeout: float, timeout: float, lost: str) -> str:
    """Return why the destination does not run the tree of SESSION, empty when it does; one that still waits for the decision goes.

    Raises InDoubt when nobody answers in TIMEOUT seconds. LOST: how the connection was lost before.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            with Link(connect(min(link_timeout, timeout)), link_timeout) as link:
                link.send(SETTLE, pack({"session": session}))
                state = unpack(link.expect(STATE)).get("state")
                if state == WAITING:
                    return _commit(link)
                if state in (RUNS, GONE):
                    return "" if state == RUNS else f"the destination has not got the tree ({lost})"
        except (MoveError, OSError):
            time.sleep(_STEP)
    raise InDoubt(
        f"the connection was lost at the decision ({lost}), and the destination does not answer: the tree is left stopped here; "
        f"start a receiver there and settle session {session}, or look yourself, and kill the tree here or continue it (SIGCONT)"
    )
