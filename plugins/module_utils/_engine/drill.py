# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `drill`: restore a dump where nobody notices, run a check on it, and end it; so that it is known to be good.

The tree gets its own PID, network, mount and IPC namespaces: its numbers and addresses are free there, and what it, or the check,
writes goes to memory. All of it ends with the first process of the PID namespace, which ends when we do, however that comes.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, Dict, NoReturn, Sequence, TextIO, Tuple

from . import errors
from .chains.lock import reading
from .clock import Clock
from .errors import EngineError, KernelError, Obstacle, RestoreError, UsageError
from .kernel import procfs
from .kernel.clone import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID
from .kernel.own_network import make_all_local
from .kernel.prctl import PR_SET_PDEATHSIG
from .kernel.syscall import syscall
from .options import DrillOptions, RestoreOptions
from .resources.cgroups import IGNORE
from .resources.mounts import private_view
from .restore import restore
from .results import DrillResult

_OUTPUT = 1 << 20
"""Bytes that are told of what the check has written, at most: of each stream the last ones."""
_NAMESPACES = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
_PID, _PIDS = "STILLFRAME_PID", "STILLFRAME_PIDS"
"""Environment of the check: the root of the tree, and all its processes."""


def drill(options: DrillOptions, log: logging.Logger) -> DrillResult:
    """Restore the dump in options.images_dir apart from everything, run the check, and end the tree.

    A check that fails, or a tree that has ended by itself, is told in the answer. Raises EngineError when it cannot be restored.
    """
    if any(not word or "\0" in word for word in options.command[:1]):
        raise UsageError("the check has no program; give the command as words, the program first")
    clock = Clock()
    with ExitStack() as lock:
        lock.enter_context(reading(options.images_dir))
        with _Apart(options, log) as apart:
            restored = apart.answer()
            lock.close()
            checked = apart.answer() if "error" not in restored else {}
    if "error" in restored:
        raise _error(restored)
    return DrillResult(
        images_dir=options.images_dir,
        dump_id=restored["dump_id"],
        pid=restored["pid"],
        pids=tuple(restored["pids"]),
        good=checked["rc"] == 0 and checked["alive"],
        rc=checked["rc"],
        stdout=checked["stdout"],
        stderr=checked["stderr"],
        timed_out=checked["timed_out"],
        alive=checked["alive"],
        restore_time=restored["restore_time"],
        check_time=checked["check_time"],
        wall_time=clock.between("start", "end"),
        warnings=tuple(restored["warnings"]),
    )


def _error(told: Dict[str, Any]) -> EngineError:
    """Return the error that was TOLD."""
    obstacles = [Obstacle(**one) for one in told["obstacles"]]
    if obstacles:
        return RestoreError(told["text"], obstacles)
    kind = getattr(errors, told["error"], KernelError)
    return kind(told["text"]) if issubclass(kind, EngineError) and kind is not errors.UnsupportedError else KernelError(told["text"])


class _Apart:
    """A process that waits, and below it the first of the PID namespace. A context manager: it ends them."""

    def __init__(self, options: DrillOptions, log: logging.Logger) -> None:
        self._options = options
        self._log = log
        self._waiter = 0
        self._first = 0
        self._answers: TextIO

    def __enter__(self) -> _Apart:
        reads, writes = os.pipe()
        ours = os.getpid()
        self._waiter = os.fork()
        if self._waiter == 0:
            os.close(reads)
            _wait_apart(ours, writes, self._options, self._log)
        os.close(writes)
        self._answers = os.fdopen(reads, encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        if self._first:
            with suppress(ProcessLookupError):
                os.kill(self._first, signal.SIGKILL)
        else:
            with suppress(ProcessLookupError):
                os.kill(self._waiter, signal.SIGKILL)
        os.waitpid(self._waiter, 0)

    def answer(self) -> Dict[str, Any]:
        """Return what comes next from inside. Raises KernelError when nothing comes."""
        line = self._answers.readline()
        if not line:
            raise KernelError("the drill was ended from outside; see what kills processes, and whether there is enough memory")
        told: Dict[str, Any] = json.loads(line)
        if "first" in told:
            self._first = told["first"]
            return self.answer()
        return told


def _wait_apart(maker: int, answers: int, options: DrillOptions, log: logging.Logger) -> NoReturn:
    """Make the namespaces, and in them the process that does the work; wait for it, and end."""
    try:
        _die_with_parent()
        if os.getppid() != maker:
            os._exit(0)
        ours = os.pidfd_open(os.getpid())
        syscall("unshare", _NAMESPACES)
        first = os.fork()
        if first == 0:
            _work_inside(ours, answers, options, log)
        _tell(answers, first=first)
        os.close(answers)
        os.waitpid(first, 0)
    except OSError as error:
        _tell(answers, error="KernelError", text=f"no namespaces can be made for the drill ({error}); run as root", obstacles=[])
    finally:
        os._exit(0)


def _die_with_parent() -> None:
    """Be killed when our parent ends, from now on (prctl(2)); it may have ended before."""
    syscall("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _work_inside(parent: int, answers: int, options: DrillOptions, log: logging.Logger) -> NoReturn:
    """Do the drill, as the first process of its PID namespace, whose end ends all others in it. PARENT: the pidfd of ours."""
    try:
        _die_with_parent()
        if select.select([parent], [], [], 0)[0]:
            os._exit(0)
        os.setsid()
        private_view.enter()
        make_all_local()
        clock = Clock()
        done = restore(_restore_options(options), log)
        _tell(answers, **{**asdict(done), "restore_time": clock.between("start", "end")})
        _tell(answers, **_check(options, done.pids))
    except EngineError as error:
        found: Sequence[Obstacle] = getattr(error, "obstacles", ())
        _tell(answers, error=type(error).__name__, text=str(error), obstacles=[asdict(one) for one in found])
    except OSError as error:
        _tell(answers, error="KernelError", text=f"the drill cannot be carried out ({error}); run as root", obstacles=[])
    finally:
        os._exit(0)


def _restore_options(options: DrillOptions) -> RestoreOptions:
    """Return how the tree is restored: nothing that others hold, and nothing that others see."""
    return RestoreOptions(
        images_dir=options.images_dir,
        work_dir="/",
        file_locks=True,
        ext_unix_sk=True,
        manage_cgroups=IGNORE,
        tcp_close=True,
        file_validation=options.file_validation,
        restore_files=True,
        apart=True,
    )


def _check(options: DrillOptions, pids: Tuple[int, ...]) -> Dict[str, Any]:
    """Run the check, and tell how it, and the tree of PIDS, got on."""
    clock = Clock()
    code, output, timed_out = 0, (b"", b""), False
    if options.command:
        environment = {**os.environ, _PID: str(pids[0]), _PIDS: " ".join(map(str, pids))}
        try:
            with subprocess.Popen(options.command, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, env=environment, cwd="/") as process:
                try:
                    output = process.communicate(timeout=options.timeout)
                except subprocess.TimeoutExpired as late:
                    process.kill()
                    output, timed_out = (late.stdout or b"", late.stderr or b""), True
                code = process.returncode if not timed_out else -signal.SIGKILL
        except OSError as error:
            code, output = 127, (b"", f"{options.command[0]}: {error.strerror}\n".encode())
    texts = [text[-_OUTPUT:].decode("utf-8", "replace") for text in output]
    alive = procfs.lives(pids[0])
    told = {"rc": code, "stdout": texts[0], "stderr": texts[1], "timed_out": timed_out, "alive": alive}
    return {**told, "check_time": clock.between("start", "end")}


def _tell(answers: int, **what: Any) -> None:
    """Tell those outside."""
    data = memoryview(json.dumps(what).encode() + b"\n")
    while data:
        data = data[os.write(answers, data) :]
