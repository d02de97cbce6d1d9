# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The errors of the engine: one tree, each message one sentence that names the object and the remedy.

    EngineError
     +-- UsageError         an option that makes no sense, or is not supported
     +-- TargetError        the process cannot be dumped at all (none, ours, a kernel thread, traced)
     +-- UnsupportedError   the tree holds something that cannot be carried; lists every obstacle
     +-- FreezeError        the tree could not be stopped in time
     +-- ImagesError        the images directory or an image in it is not usable
     |    +-- ChainError    a parent dump is missing, damaged, or not the one that is needed
     +-- RestoreError       the machine is not ready to hold the restored tree
     +-- TransferError      the other side of a transfer refused, went away, or says what makes no sense
     +-- KernelError        the kernel refused, or lacks, what the engine needs
     +-- MoveError          a move to another host failed; the tree runs on where it was
          +-- InDoubt       it cannot be told where the tree runs: it is stopped here
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence


@dataclass(frozen=True)
class Obstacle:
    """One thing that stands in the way of a dump or a restore."""

    pid: int
    """The process that holds it, 0 where no process does."""
    where: str
    """The descriptor ("fd 7"), mapping ("mapping 7f12000-7f13000"), file or state, as a person would name it."""
    why: str
    remedy: str

    def __str__(self) -> str:
        owner = f"process {self.pid}, " if self.pid else ""
        return f"{owner}{self.where}: {self.why}; {self.remedy}"


class EngineError(Exception):
    """Root of everything that the engine raises on purpose."""


class UsageError(EngineError):
    """The caller asked for what makes no sense or is not supported."""


class TargetError(EngineError):
    """The process named cannot be dumped."""


class UnsupportedError(EngineError):
    """The tree holds kernel state that cannot be carried. Nothing was touched."""

    def __init__(self, obstacles: Sequence[Obstacle]) -> None:
        self.obstacles = tuple(obstacles)
        super().__init__("; ".join(str(obstacle) for obstacle in self.obstacles))


class FreezeError(EngineError):
    """The tree could not be stopped within the time allowed. It runs on."""


class ImagesError(EngineError):
    """The images directory, or an image in it, is not usable."""

    def __init__(self, message: str, path: str = "", offset: Optional[int] = None) -> None:
        self.path = path
        """The file at fault, empty where that is not one file."""
        self.offset = offset
        """Where in it, in bytes; None where that is not known."""
        super().__init__(message)


class ChainError(ImagesError):
    """A parent of the dump is missing, damaged, or not the dump that is needed."""


class RestoreError(EngineError):
    """The tree cannot be restored on this machine as it is. Nothing of it was left behind."""

    def __init__(self, message: str, obstacles: Sequence[Obstacle] = ()) -> None:
        self.obstacles = tuple(obstacles)
        super().__init__(message)


class TransferError(EngineError):
    """The other side of a transfer refused, went away, or said what makes no sense. What it had sent is not used."""


class KernelError(EngineError):
    """The kernel lacks, or refused, something that the engine needs."""


class MoveError(EngineError):
    """A move to another host failed. The tree runs on where it was."""


class InDoubt(MoveError):
    """The connection was lost at the moment of the decision: the tree is left stopped here, and may run on the other host."""
