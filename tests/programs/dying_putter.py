# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that is killed at a certain step of putting files back: `dying_putter.py STEP COMMAND-LINE...`.

A step is a call that changes a file in a directory, or the moment before the tree is let go. Before step number STEP it kills itself.
Ends with 0 when it came to no such step, as the command line does otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "plugins" / "module_utils"))

from _engine.cli.program import main
from _engine.resources.files import replaced
from _engine.tracee.stubs import Stubs

CALLS = ("link", "mkdir", "open", "rename", "unlink", "utime")


class Dying:
    """The module os, but for the step; in a process that is forked it is that module."""

    def __init__(self, last: int) -> None:
        self._left = last
        self._engine = os.getpid()

    def __getattr__(self, name: str) -> Any:
        return self.watched(getattr(os, name)) if name in CALLS else getattr(os, name)

    def watched(self, call: Any) -> Any:
        """Return CALL, which counts when it is made."""

        def make(*args: Any, **more: Any) -> Any:
            if os.getpid() == self._engine:
                if not self._left:
                    os.kill(os.getpid(), signal.SIGKILL)
                self._left -= 1
            return call(*args, **more)

        return make


if __name__ == "__main__":
    dying = Dying(int(sys.argv[1]))
    setattr(replaced, "os", dying)  # noqa: B010
    setattr(Stubs, "go", dying.watched(Stubs.go))  # noqa: B010
    sys.exit(main(["stillframe", *sys.argv[2:]]))
