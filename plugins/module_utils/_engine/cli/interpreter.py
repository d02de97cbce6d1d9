# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Find a Python interpreter that has what the engine needs, and go on in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from ..errors import UsageError

_MARK = "STILLFRAME_REEXECUTED"
"""Set in the environment of the interpreter that we went on in, so that this happens once."""
_CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))
_PROBE = "import sys, google.protobuf, ptrace.binding; sys.exit(sys.version_info < (3, 9))"


def missing_packages(images_only: bool = False) -> tuple[str, ...]:
    """Return which of the packages that the engine needs, or with IMAGES_ONLY its images, the running interpreter cannot import."""
    missing = []
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        missing.append("protobuf")
    try:
        if not images_only:
            import ptrace.binding  # noqa: F401
    except ImportError:
        missing.append("python-ptrace")
    return tuple(missing)


def require_packages(command: Sequence[str], images_only: bool = False) -> None:
    """Return when the engine's packages are there; else go on with COMMAND, our own, in an interpreter that has them.

    With IMAGES_ONLY, nothing is asked of what only traces processes.

    The candidates are $STILLFRAME_PYTHON, the checkout's .venv and /usr/bin/python3, in this order.
    Raises UsageError when none has the packages.
    """
    again = os.environ.pop(_MARK, None) is not None
    missing = missing_packages(images_only)
    if not missing:
        return
    interpreter = None if again else _capable(os.environ)
    if interpreter is None:
        raise UsageError(
            f"Python package{'s' if len(missing) > 1 else ''} {' and '.join(missing)} cannot be imported by {sys.executable}; "
            "run `make venv`, or install the Debian packages python3-protobuf and python3-ptrace"
        )
    os.execve(interpreter, [interpreter, *command], {**os.environ, _MARK: "1"})


def _capable(environment: Mapping[str, str]) -> str | None:
    """Return the first candidate that has the packages."""
    import subprocess

    candidates = (environment.get("STILLFRAME_PYTHON"), os.path.join(_CHECKOUT, ".venv", "bin", "python"), "/usr/bin/python3")
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            probe = subprocess.run([candidate, "-c", _PROBE], stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if probe.returncode == 0:
                return candidate
    return None
