# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""receive: take a tree that moves here from another host, round by round into the memory that it will have, and let it go on.

`transfer/decision.py` tells how both ends agree on where it runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Optional

from .clock import Clock
from .errors import EngineError, MoveError
from .images.schema import message
from .kernel.urgency import urgent
from .options import Connect, ReceiveTreeOptions, RestoreOptions
from .resources.memory import seal
from .restore import restore
from .results import ReceiveTreeResult, RestoreResult
from .transfer import greeting, journal, preflight
from .transfer.arriving import ArrivingFiles
from .transfer.codec import garbled, is_last, pack, unpack, unpack_areas, unpack_object, unpack_pages, unpack_shape, unpack_zeros
from .transfer.decision import GONE, RUNS, WAITING, Record, identities, is_session, prune, state_here, write_down
from .transfer.ground import Ground
from .transfer.received import Incoming, PrivateDirectory
from .transfer.shape import Shape
from .transfer.shared_ground import SharedGround
from .transfer.wire import (
    ABORT,
    APPLIED,
    AREAS,
    COMMIT,
    DATA,
    FILE,
    FINAL,
    HELLO,
    HOLES,
    IMAGE,
    OBJECT,
    PAGES,
    PART,
    READY,
    ROUND_END,
    RUNNING,
    SETTLE,
    SHARED,
    STATE,
    TREE,
    ZEROS,
    Frame,
    Link,
)


def receive(options: ReceiveTreeOptions, accept: Connect, log: logging.Logger) -> Optional[ReceiveTreeResult]:
    """Take the tree that the source sends over a connection that ACCEPT returns; it runs here then, a child of ours.

    Returns None when the source only asked what became of an earlier one. Raises EngineError: then nothing of the tree is here.
    """
    clock = Clock()
    prune("destination")
    journal.tidy()
    while True:
        try:
            link = Link(accept(options.source_timeout), options.link_timeout)
        except OSError as error:
            raise MoveError(f"no source has come ({error}); see what keeps it, and whether the address and the port are right") from error
        with link:
            frame = link.receive()
            if frame.kind == SETTLE:
                _answer(link, frame.body, log)
                return None
            if frame.kind != HELLO:
                raise garbled()
            visit = greeting.answer(link, frame.body)
            if not visit.checking:
                return _Move(options, accept, log, link, visit.session, clock).run()
            with ArrivingFiles(options.accept_files, visit.session) as files:
                preflight.visited(link, files, log)


def _answer(link: Link, body: memoryview, log: logging.Logger) -> None:
    """Tell a source that was left in doubt whether its tree runs here."""
    session = unpack(body).get("session")
    if not is_session(session):
        raise garbled()
    state = state_here(str(session))
    log.info("The tree of session %s: %s", session, state)
    link.send(STATE, pack({"state": state}))


class _Move:
    """One move, as the destination sees it."""

    def __init__(self, options: ReceiveTreeOptions, accept: Connect, log: logging.Logger, link: Link, session: str, clock: Clock) -> None:
        self._options = options
        self._accept = accept
        self._log = log
        self._link = link
        self._session = session
        self._clock = clock
        self._ground = Ground(options.shell_job)
        self._shared = SharedGround()
        self._files = ArrivingFiles(options.accept_files, session)
        self._warnings: list[str] = []
        self._committed = False
        self._rounds = 0
        self._bytes = 0

    def run(self) -> ReceiveTreeResult:
        """Take the tree. Raises EngineError."""
        with self._files:
            try:
                result = self._restored()
            except EngineError as error:
                self._give_up(error)
                raise
            self._files.keep()
            self._tell(RUNNING, b"", RUNS)
        self._log.info("Took processes %s", ", ".join(map(str, result.pids)))
        return self._report(result)

    def _restored(self) -> RestoreResult:
        """Take what comes, and build the tree of it. Raises EngineError."""
        with ExitStack() as stack:
            directory = stack.enter_context(PrivateDirectory())
            stack.enter_context(self._ground)
            stack.enter_context(self._shared)
            preflight.answer(self._link, self._files)
            message("core_entry")  # builds the whole schema, once: not in the stop
            seal.check(0, [])  # reads all our mappings, once
            urgency = stack.enter_context(ExitStack())
            with Incoming(directory) as incoming:
                self._take(incoming, urgency)
            self._options.hook("pre-restore", {})  # before it is looked whether the tree's addresses are here
            return restore(self._restore_options(directory), self._log, self._ground)

    def _take(self, incoming: Incoming, urgency: ExitStack) -> None:
        """Take the rounds, the last one and the images with URGENCY. Raises MoveError, RestoreError."""
        shape: Shape = ()
        layouts: dict[int, Sequence[Any]] = {}
        kept = True
        while True:
            frame = self._link.receive()
            if frame.kind in (PAGES, ZEROS, ROUND_END, IMAGE) and shape:  # all mappings are known now
                if set(layouts) - {one.pid for one in shape}:
                    raise garbled()
                kept = self._ground.follow(shape, layouts)
                shape, layouts = (), {}
            if frame.kind == TREE:
                shape, layouts = unpack_shape(frame.body), {}
                self._options.progress.name(f"round {self._rounds + 1}")
                if is_last(frame.body):
                    urgency.enter_context(urgent())
                else:
                    self._options.progress.begin(0)  # nothing is told of the stop
            elif frame.kind == AREAS and shape:
                pid, vmas = unpack_areas(frame.body)
                layouts[pid] = vmas
            elif frame.kind == PAGES:
                pid, pieces, data = unpack_pages(frame.body)
                self._ground.write(pid, pieces, data)
                self._bytes += len(data)
                self._options.progress.add(len(data))
            elif frame.kind == ZEROS:
                pid, pieces = unpack_zeros(frame.body)
                self._ground.clear(pid, pieces)
                self._options.progress.add(sum(length for _address, length in pieces))
            elif frame.kind in (OBJECT, SHARED, HOLES):
                self._take_shared(frame)
            elif frame.kind == FILE:
                self._files.begin(frame.body)
            elif frame.kind == PART:
                self._files.write(frame.body)
            elif frame.kind == ROUND_END:
                self._ground.settle()
                self._shared.settle()
                self._rounds += 1
                self._link.send(APPLIED, pack({"kept": kept}))
            elif frame.kind == IMAGE:
                size, _space, name = bytes(frame.body[:200]).decode("ascii", "replace").partition(" ")
                incoming.begin(name, int(size) if size.isdigit() else -1)
            elif frame.kind == DATA:
                incoming.write(frame.body)
            elif frame.kind == FINAL:
                self._ground.settle()
                incoming.end()
                return
            elif frame.kind == ABORT:
                raise MoveError(f"the source gave up: {bytes(frame.body[:2000]).decode('utf-8', 'replace')}")
            else:
                raise garbled()

    def _take_shared(self, frame: Frame) -> None:
        """Take what tells of memory that processes share. Raises MoveError, RestoreError."""
        if frame.kind == OBJECT:
            self._shared.tell(unpack_object(frame.body))
        elif frame.kind == HOLES:
            self._shared.clear(*unpack_zeros(frame.body))
        else:
            number, pieces, data = unpack_pages(frame.body)
            self._shared.write(number, pieces, data)
            self._bytes += len(data)
            self._options.progress.add(len(data))

    def _restore_options(self, directory: str) -> RestoreOptions:
        options = self._options
        return RestoreOptions(
            images_dir=directory,
            shell_job=options.shell_job,
            file_locks=options.file_locks,
            ext_unix_sk=options.ext_unix_sk,
            manage_cgroups=options.manage_cgroups,
            tcp_established=options.tcp_established,
            tcp_close=options.tcp_close,
            track_mem=options.track_mem,
            restore_sibling=options.restore_sibling,
            file_validation=options.file_validation,
            stand_ins=self._files.complete(),
            filled=self._shared.hand_over,
            hook=self._hook,
        )

    def _hook(self, stage: str, environment: Mapping[str, str]) -> None:
        """Run the user's hook; with all built, let the source decide."""
        if stage == "pre-restore":
            return
        try:
            self._options.hook(stage, environment)
        except EngineError as error:
            if not self._committed:
                raise
            self._warnings.append(f"the tree runs, but hook {stage} failed: {error}")
        if stage == "pre-resume":
            self._await_decision()

    def _await_decision(self) -> None:
        """Return when the source has decided that the tree runs here. Raises MoveError when it does not, or is lost for too long."""
        deadline = time.monotonic() + self._options.decision_timeout
        self._link.send(READY)  # a source that cannot be told has not decided
        while True:
            try:
                self._link.wait_at_most(max(deadline - time.monotonic(), 0.001))
                frame = self._link.receive()
            except MoveError as error:
                self._meet_again(deadline, str(error))
                continue
            if frame.kind == COMMIT:
                write_down("destination", Record(self._session, identities(self._ground.numbers)))
                self._committed = True
                self._files.put_in_place()
                return
            if frame.kind == ABORT:
                raise MoveError(f"the source gave up: {bytes(frame.body[:2000]).decode('utf-8', 'replace')}")
            raise garbled()

    def _meet_again(self, deadline: float, lost: str) -> None:
        """Let the source connect again, and tell it that its decision is awaited. Raises MoveError when it does not come."""
        while time.monotonic() < deadline:
            with suppress(MoveError):
                link = self._next(deadline)
                if link is not None:
                    link.send(STATE, pack({"state": WAITING}))
                    self._link.close()
                    self._link = link
                    return
        raise MoveError(f"the source was lost before it decided ({lost}); the tree goes on there")

    def _next(self, deadline: float) -> Optional[Link]:
        """Return the next connection by which our source asks, None when nobody came, or another."""
        try:
            link = Link(self._accept(max(deadline - time.monotonic(), 0.001)), self._options.link_timeout)
        except OSError:
            return None
        try:
            if unpack(link.expect(SETTLE)).get("session") == self._session:
                return link
        except MoveError as error:
            self._log.warning("Refused a connection: %s", error)
        link.close()
        return None

    def _give_up(self, error: EngineError) -> None:
        """Tell the source that nothing of its tree is here."""
        self._log.error("%s", error)
        if self._committed:
            self._tell(ABORT, str(error).encode(), GONE)
        else:
            with suppress(MoveError):
                self._link.send(ABORT, str(error).encode())

    def _tell(self, kind: int, body: bytes, state: str) -> None:
        """Answer the source that has decided: by a new connection when this one is lost, for as long as it may ask."""
        deadline = time.monotonic() + self._options.decision_timeout
        with suppress(MoveError):
            self._link.send(kind, body)
            self._link.wait_at_most(self._options.link_timeout)
            if self._link.receive().kind == SETTLE:  # it has our answer
                return
        while time.monotonic() < deadline:
            with suppress(MoveError):
                link = self._next(deadline)
                if link is not None:
                    with link:
                        link.send(STATE, pack({"state": state}))
                    return

    def _report(self, result: RestoreResult) -> ReceiveTreeResult:
        return ReceiveTreeResult(
            session=self._session,
            pid=result.pid,
            pids=result.pids,
            rounds=self._rounds,
            bytes=self._bytes,
            pages_restored=result.pages_restored,
            restore_time=result.restore_time,
            wall_time=self._clock.between("start", "end"),
            warnings=(*result.warnings, *self._warnings),
        )
