# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that is killed at a certain step: `dying_engine.py STEP COMMAND-LINE...`.

A step is a request to the kernel about a tracee. Before step number STEP it kills itself. Ends with 0 when it came to no such
step, as the command line does otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "plugins" / "module_utils"))

from _engine.cli.program import main
from _engine.kernel import ptrace

REQUESTS = ("cont", "cont_to_syscall", "detach", "interrupt", "seize", "set_regset", "set_sigmask", "set_options", "wait", "wait_until")


class Steps:
    """Counts the steps."""

    def __init__(self, last: int) -> None:
        self._left = last

    def watched(self, request: Any) -> Any:
        """Return REQUEST, which counts when it is made."""

        def make(*args: Any) -> Any:
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            return request(*args)

        return make


if __name__ == "__main__":
    steps = Steps(int(sys.argv[1]))
    for name in REQUESTS:
        setattr(ptrace, name, steps.watched(getattr(ptrace, name)))
    sys.exit(main(["stillframe", *sys.argv[2:]]))
