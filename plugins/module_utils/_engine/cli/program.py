# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The program `stillframe`: from the words of a command line to an exit status."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn
from collections.abc import Callable, Sequence

from ..errors import EngineError, ImagesError, UsageError
from ..version import VERSION
from .command import DEPRECATED_STATUS, DEPRECATED_VERBS, IMAGE_VERBS, MAKING_VERBS, SUPPORTED_VERBS, UNSUPPORTED_VERBS

if TYPE_CHECKING:
    from .line_log import LineLog
    from .session import Session
    from .settings import Settings

_FAILED = 1
_SIGNALLED = 128
"""Added to the number of the signal that ended the verb, as shells do."""

_FAILURES = {
    "dump": "Dumping FAILED.",
    "pre-dump": "Pre-dumping FAILED.",
    "checkpoint": "Dumping FAILED.",
    "restore": "Restoring FAILED.",
    "drill": "Drill FAILED.",
    "page-server": "Receiving FAILED.",
    "receive": "Receiving FAILED.",
    "migrate": "Migrating FAILED.",
}
"""The last line of the log of a verb that failed, which programs look for."""


def main(argv: Sequence[str]) -> int:
    """Run the command line ARGV, its first word the program's own path, and return the exit status."""
    arguments = argv[1:]
    if "--help" in arguments or "-h" in arguments:
        from .usage import help_text

        sys.stdout.write(f"{help_text()}\n")
        return 0
    if not arguments:
        from .usage import SUMMARY

        sys.stdout.write(f"{SUMMARY}\n")
        return _FAILED
    from .line_log import tell

    try:
        return _command_line(arguments, argv)
    except EngineError as error:
        tell("", error)
        return _FAILED


def _command_line(arguments: Sequence[str], argv: Sequence[str]) -> int:
    """Do what ARGUMENTS say. Raises EngineError for what goes wrong before there is a log."""
    from .line_log import tell
    from .settings import read_settings

    settings = read_settings(arguments, os.environ)
    if settings.version:
        sys.stdout.write(f"Version: {VERSION}\n")
        return 0
    verb = settings.operands[0] if settings.operands else ""
    if verb in DEPRECATED_VERBS:
        tell("", f"{verb} is not a command any more; {DEPRECATED_VERBS[verb]}")
        return DEPRECATED_STATUS
    _check_verb(verb, settings)
    return _run(verb, settings, argv)


def _check_verb(verb: str, settings: Settings) -> None:
    """Raise UsageError unless VERB is one of ours and stands alone."""
    if not verb:
        raise UsageError("no command is given; stillframe --help lists them")
    if verb in UNSUPPORTED_VERBS:
        raise UsageError(f"command {verb} is not supported yet: {UNSUPPORTED_VERBS[verb]}")
    if verb not in SUPPORTED_VERBS:
        raise UsageError(f"command {verb} is unknown; stillframe --help lists the commands")
    if settings.exec_cmd and verb not in ("restore", "drill"):
        raise UsageError(f"--exec-cmd makes no sense with {verb}; it goes with restore")
    if len(settings.operands) > 1 and not settings.exec_cmd and verb != "drill":
        raise UsageError(f"command {verb} takes no {settings.operands[1]!r}; leave it out")


def _run(verb: str, settings: Settings, argv: Sequence[str]) -> int:
    """Prepare what VERB works in, as CRIU's main does, and run it."""
    from .interpreter import require_packages
    from .line_log import open_log

    require_packages(argv, images_only=verb in IMAGE_VERBS)
    for descriptor in settings.close:
        with suppress(OSError):
            os.close(descriptor)
    images_dir, work_dir = _enter(settings, verb in MAKING_VERBS)
    log = open_log(settings.log_file, settings.verbosity)
    log.note("Version: %s", VERSION)
    log.note("Running on %s", " ".join(os.uname()))
    try:
        return _attempt(verb, settings, images_dir, work_dir, log)
    except (EngineError, OSError) as error:
        log.fail(verb, _sentence(error))
        if verb in _FAILURES:
            log.logger.error("%s", _FAILURES[verb])
        return _FAILED
    finally:
        log.close()


def _sentence(error: Exception) -> str:
    """Return what ERROR says; of an error of the system, the file before the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _enter(settings: Settings, made: bool) -> tuple[str, str]:
    """Change to the work dir; return the absolute paths of images dir and work dir. Raises ImagesError and UsageError.

    An images dir that is MADE by the verb is no place to be in.
    """
    from .settings import absolute

    images_dir, work_dir = absolute(settings)
    if made:
        work_dir = os.path.abspath(settings.work_dir or ".")
    elif not os.path.isdir(images_dir):
        what = "is not a directory" if os.path.lexists(images_dir) else "does not exist"
        raise ImagesError(f"images directory {images_dir} {what}; make it first, or name another one with --images-dir")
    try:
        os.chdir(work_dir)
    except OSError as error:
        raise UsageError(f"work directory {work_dir} cannot be entered: {error.strerror}; name another one with --work-dir") from error
    return images_dir, work_dir


def _attempt(verb: str, settings: Settings, images_dir: str, work_dir: str, log: LineLog) -> int:
    """Run VERB so that SIGTERM and SIGINT let it clean up."""
    from .session import Session

    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _work_of(verb)(Session(settings, images_dir, work_dir, log))
    except KeyboardInterrupt as interrupt:
        signum = signal.Signals(interrupt.args[0] if interrupt.args else signal.SIGINT)
        log.fail(verb, f"ended by {signum.name}")
        return _SIGNALLED + signum
    finally:
        signal.signal(signal.SIGTERM, previous)


def _work_of(verb: str) -> Callable[[Session], int]:
    from .storage_verbs import STORAGE_VERBS

    if verb in STORAGE_VERBS:
        return STORAGE_VERBS[verb]
    from .verbs import VERBS

    return VERBS[verb]


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signum)
