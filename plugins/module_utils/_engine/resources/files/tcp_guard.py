# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The guard: a process that locks the connections of a tree while they are dumped, and leaves none locked or in repair mode.

Repair mode is a state of the socket, which the tree shares: it does not end when we do. So the guard, not we, turns it on
and off, and goes on when we are killed. The tree stays stopped then until that is done: see `tracee/stay.py`. The lock is a
table of nf_tables that the guard owns: killed itself, the lock is gone too.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from typing import Any

from ...errors import KernelError
from ...kernel import tcp_repair
from ...kernel.nftables import Flow, Nftables
from ...kernel.syscall import syscall
from ...tracee import stay
from ...kernel.urgency import urgent
from .socket_options import borrowed

_HOLD, _LET, _TAKE, _KEEP = "hold", "let", "take", "keep"


def lock_table(dump_id: str) -> str:
    """Return the name of the table that keeps the connections of a dump locked.

    CRIU finds it by dump_criu_run_id of the inventory; it puts "inet CRIU-ID" into 31 characters (criu/netfilter.c, 4.2).
    """
    return f"CRIU-{dump_id}"[: 31 - len("inet ")]


class Guard:
    """Locks FLOWS from its start to its `close`. After `keep` the lock and the repair mode stay, and the tree must end."""

    def __init__(self, flows: Sequence[Flow], sockets: Sequence[int]) -> None:
        """SOCKETS: our descriptors of the connections; the guard gets copies."""
        self._flows = flows
        self._sockets = sockets
        self._pipe: Pipe | None = None
        self._pid = 0

    def start(self) -> None:
        """Start the process, and return when the connections are locked. KernelError when they can't be."""
        ours, theirs = socket.socketpair()
        self._pid = os.fork()
        if not self._pid:
            _run(lambda: _guard(theirs.detach(), self._flows, self._sockets))
        theirs.close()
        self._pipe = Pipe(ours.detach())
        self._answer("the connections cannot be locked")

    @contextmanager
    def holding(self, pids: Sequence[int]) -> Iterator[None]:
        """Have PIDS, which we have stopped, stay so for the length of the block should we die in it. Raises KernelError."""
        held = tuple(stay.places(pids))
        try:
            self._ask((_HOLD, held), "the tree cannot be held")
            yield
        finally:
            self._let(held)

    def take(self, local: int) -> tcp_repair.Connection:
        """Return what our socket LOCAL holds. KernelError when it cannot be read."""
        found: tcp_repair.Connection = self._ask((_TAKE, local), "a TCP connection cannot be read")
        return found

    def keep(self, table: str, pids: Sequence[int]) -> None:
        """Make the lock last, as TABLE, and the connections mute: PIDS are to be killed next. Should we die, the guard does it."""
        held = tuple(stay.places(pids))
        try:
            self._ask((_HOLD, held), "the tree cannot be held")
            self._ask((_KEEP, table, tuple(pids)), "the connections cannot be kept for the restore")
        except KernelError:
            self._let(held)
            raise

    def close(self) -> None:
        """End the process and wait until it has: it has lifted the lock, but for `keep`."""
        if self._pipe:
            self._pipe.close()
            self._pipe = None
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _let(self, held: Sequence[stay.Place]) -> None:
        stay.leave(held)
        with suppress(KernelError):  # it has ended, and holds nothing
            self._ask((_LET,), "the tree cannot be let go")

    def _ask(self, request: tuple[Any, ...], failure: str) -> Any:
        if self._pipe is None:
            raise KernelError(f"{failure}: their guard has ended")
        with suppress(BrokenPipeError):
            self._pipe.send(request)
        return self._answer(failure)

    def _answer(self, failure: str) -> Any:
        if self._pipe is None:
            raise KernelError(f"{failure}: their guard has ended")
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise KernelError(f"{failure}: their guard has ended; dump the tree again") from error
        if isinstance(answer, OSError):
            raise KernelError(f"{failure} ({answer}); run as root, with nf_tables in the kernel") from answer
        return answer


def _run(body: Callable[[], None]) -> None:
    """Do BODY in this process, a copy of us, and end it: nothing else of us may run here."""
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.setsid()
        body()
        status = 0
    finally:
        os._exit(status)


def _guard(end: int, flows: Sequence[Flow], sockets: Sequence[int]) -> None:
    """Serve requests until whoever started us closes his end, or dies."""
    _close_others({end, *sockets})
    pipe = Pipe(end)
    with urgent(), Nftables() as nftables:
        served = _Served(nftables, sockets)
        _reply(pipe, lambda: nftables.drop(f"stillframe-{os.getpid()}", flows, owned=True))
        try:
            while True:
                request = pipe.recv()
                if request[0] == _TAKE:
                    _reply(pipe, lambda local=request[1]: served.take(local))  # type: ignore[misc]
                elif request[0] == _HOLD:
                    _reply(pipe, lambda threads=request[1]: served.hold(threads))  # type: ignore[misc]
                elif request[0] == _LET:
                    _reply(pipe, served.let)
                else:
                    _reply(pipe, lambda asked=request: served.keep(asked[1], flows, asked[2]))  # type: ignore[misc]
        except (EOFError, ConnectionError):
            served.end()


def _reply(pipe: Pipe, action: Callable[[], Any]) -> None:
    """Send what ACTION returns, or the OSError that it raises."""
    try:
        answer = action()
    except OSError as error:
        answer = error
    pipe.send(answer)


def _close_others(kept: set[int]) -> None:
    """Close every descriptor but KEPT: what we hold open would not close when its owner closes it."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


class _Served:
    """What the guard does to the sockets."""

    def __init__(self, nftables: Nftables, sockets: Sequence[int]) -> None:
        self._nftables = nftables
        self._sockets = sockets
        self._doomed: list[int] = []
        """pidfds of the tree that is to be killed."""
        self._held: list[int] = []
        """pidfds of the processes that stop should they run on."""

    def hold(self, threads: Sequence[stay.Place]) -> None:
        self._held = [os.pidfd_open(pid) for pid in {thread.pid for thread in threads}]
        for thread in threads:
            syscall("tgkill", thread.pid, thread.tid, signal.SIGSTOP)

    def let(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def take(self, local: int) -> tcp_repair.Connection:
        with borrowed(local) as sock:
            return tcp_repair.take(sock)

    def keep(self, table: str, flows: Sequence[Flow], pids: Sequence[int]) -> None:
        doomed = [os.pidfd_open(pid) for pid in pids]
        self._nftables.drop(table, flows, owned=False)
        changed: dict[int, int] = {}
        try:
            for local in self._sockets:
                self._mute(local, changed)
        except OSError:
            self._speak(changed)
            self._nftables.delete(table)
            raise
        self._doomed = doomed

    def end(self) -> None:
        """Kill what is to be killed, unless that was done, or else let go on what is held."""
        for pidfd in self._doomed or self._held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL if self._doomed else signal.SIGCONT)

    @staticmethod
    def _mute(local: int, changed: dict[int, int]) -> None:
        with borrowed(local) as sock:
            reuse = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            tcp_repair.set_repair(sock, tcp_repair.TCP_REPAIR_ON)
            changed[local] = reuse

    @staticmethod
    def _speak(changed: Mapping[int, int]) -> None:
        for local, reuse in changed.items():
            with borrowed(local) as sock:
                tcp_repair.set_repair(sock, tcp_repair.TCP_REPAIR_OFF_NO_WP)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
