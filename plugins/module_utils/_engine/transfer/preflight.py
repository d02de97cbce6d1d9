# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands in the way of a move, on both hosts and all of it at once, before anything is touched."""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..dump import find_obstacles
from ..errors import MoveError, Obstacle, UnsupportedError
from ..kernel import procfs
from ..options import DumpOptions, MigrateOptions
from ..progress import Progress
from ..tracking.trackers import Trackers
from . import lacks, needs
from .arriving import ArrivingFiles
from .carried import CarriedFiles
from .codec import garbled, pack, unpack
from .wire import NEEDS, OBSTACLES, PROBE, Link

_PROBED = 32 << 20
"""Bytes at most by which a connection is measured: what either end has room for anyway."""
_BLOCK = 1 << 18
_PROBE_TIME = 0.5
"""Seconds at most."""


class Found(NamedTuple):
    """What is worth a warning: here at the source, and at the destination."""

    here: Sequence[str]
    there: Sequence[str]
    files: CarriedFiles
    bytes: int
    """Of the files."""


def dump_options(options: MigrateOptions, images_dir: str = "", last: bool = False) -> DumpOptions:
    """Return what the dump of a round, or the LAST one, is to be like."""
    return DumpOptions(
        tree=options.tree,
        images_dir=images_dir,
        track_mem=not last,
        leave_running=not last,
        tracker=options.tracker,
        shell_job=options.shell_job,
        file_locks=options.file_locks,
        ext_unix_sk=options.ext_unix_sk,
        manage_cgroups=options.manage_cgroups,
        tcp_established=options.tcp_established,
        tcp_close=options.tcp_close,
        skip_in_flight=options.skip_in_flight,
        ghost_limit=options.ghost_limit,
        timeout=options.timeout,
        progress=Progress() if last else options.progress,  # nothing is told of the stop
    )


def look(options: MigrateOptions, pids: Sequence[int], link: Link | None, log: logging.Logger, known: Sequence[Obstacle] = ()) -> Found:
    """Return what is worth a warning about moving PIDS, and the files to be carried; ask the destination too, when there is a LINK to it.

    Raises UnsupportedError with all that stands in the way, what is KNOWN of it already besides, and MoveError.
    """
    with Trackers(dump_options(options), None, log) as trackers:
        trackers.choose()
        trackers.look(pids)
        obstacles, here = find_obstacles(dump_options(options), pids, trackers)
    obstacles += [_terminal(pid) for pid in pids if _has_terminal(pid)]
    there: list[str] = []
    files = CarriedFiles(options.carry_files, options.tree)
    carried, refused = files.look(pids)
    obstacles += refused
    if link is not None:
        link.send(NEEDS, pack(needs.look(pids, options.tcp_established, carried).values()))
        told = unpack(link.expect(OBSTACLES))
        obstacles += needs.from_values(told.get("obstacles"))
        there = needs.texts(told.get("warnings"))
        files.leave_out(needs.texts(told.get("there")))
    if obstacles or known:
        raise UnsupportedError([*known, *obstacles])
    return Found(here, there, files, sum(one.size for one in carried))


def _has_terminal(pid: int) -> bool:
    """Tell whether PID, which may have ended, has a controlling terminal."""
    try:
        return procfs.stat(pid).tty != 0
    except procfs.GONE:
        return False


def _terminal(pid: int) -> Obstacle:
    """Refuse a process with a controlling terminal: it is given to a session when that is made, which is long before the files come."""
    why = "it has a controlling terminal, which a move cannot take along"
    return Obstacle(pid, "terminal", why, "run it without a terminal, or dump and restore it")


def answer(link: Link, files: ArrivingFiles) -> None:
    """Tell the source what its tree lacks here, what is worth a warning, and which of its FILES need not come.

    Raises MoveError when it lacks anything.
    """
    wanted = needs.Needs.read(unpack(link.expect(NEEDS)))
    found, there = lacking(wanted, files)
    link.send(OBSTACLES, pack({"obstacles": needs.to_values(found), "warnings": lacks.warnings(wanted), "there": there}))
    if found:
        raise needs.refused(found)


def lacking(wanted: needs.Needs, files: ArrivingFiles) -> tuple[list[Obstacle], list[str]]:
    """Return what of WANTED is not to be had here, and which of the files that are to be carried need not come as FILES do."""
    there = files.there(wanted.carried, wanted.boot)
    return lacks.obstacles(wanted) + files.obstacles([one for one in wanted.carried if one.path not in there]), there


def measure(link: Link) -> int:
    """Return the bytes a second that the destination takes. Raises MoveError."""
    block, sent, begin = os.urandom(_BLOCK), 0, time.monotonic()
    while sent < _PROBED and time.monotonic() - begin < _PROBE_TIME:
        link.send(PROBE, block)
        sent += len(block)
    link.send(PROBE)
    link.expect(PROBE)
    return int(sent / (time.monotonic() - begin))


def be_measured(link: Link) -> None:
    """Take what the source measures the connection by, into fresh memory, as a round would. Raises MoveError."""
    with mmap.mmap(-1, _PROBED) as memory:
        at = 0
        while body := link.expect(PROBE):
            if at + len(body) > _PROBED:
                raise garbled()
            memory[at : at + len(body)] = bytes(body)
            at += len(body)
    link.send(PROBE)


def visited(link: Link, files: ArrivingFiles, log: logging.Logger) -> None:
    """Answer a source that asks whether its tree could come."""
    try:
        answer(link, files)
        be_measured(link)
    except MoveError as error:
        log.info("A source has asked whether its tree could come: %s", error)
        return
    log.info("A source has asked whether its tree could come: it could")
