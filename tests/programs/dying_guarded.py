# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that is killed while the guard of its TCP connections is at work: `dying_guarded.py REQUEST COMMAND-LINE...`.

It kills itself when it has sent request number REQUEST to the guard, counted from 0, the first being to lock the connections. Then
the guard takes its time with what it does to a connection, so that a tree which ran on would meet that.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "plugins" / "module_utils"))

from _engine.cli.program import main
from _engine.kernel import tcp_repair
from _engine.resources.files.tcp_guard import Guard

SLOWNESS = 0.1
"""Seconds."""

if __name__ == "__main__":
    left = int(sys.argv[1])
    answer = Guard._answer

    def dying(self: Guard, failure: str) -> Any:
        """Die, or await the answer."""
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return answer(self, failure)

    set_repair = tcp_repair.set_repair

    def slowly(sock: Any, mode: int) -> None:
        """Set it, and stay so for a while."""
        set_repair(sock, mode)
        if mode == tcp_repair.TCP_REPAIR_ON:
            time.sleep(SLOWNESS)

    tcp_repair.set_repair = slowly
    Guard._answer = dying  # type: ignore[method-assign]
    sys.exit(main(["stillframe", *sys.argv[2:]]))
