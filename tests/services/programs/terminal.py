# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Be the terminal of a shell: what comes in by the FIFO "typed" is typed, what it shows goes slowly into the file "seen".

usage: terminal.py DIRECTORY COMMAND...
"""

from __future__ import annotations

import os
import pty
import select
import sys

SLOWLY = 512
"""Bytes, a hundred times a second at most: so that the terminal is always full."""


def main(directory: str, *command: str) -> None:
    os.chdir(directory)
    pid, master = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    typed = os.open("typed", os.O_RDWR | os.O_CLOEXEC)
    seen = os.open("seen", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    while True:
        ready, _writable, _failed = select.select([typed, master], [], [])
        if typed in ready:
            os.write(master, os.read(typed, 4096))
        if master in ready:
            os.write(seen, os.read(master, SLOWLY))
            select.select([typed], [], [], 0.01)


main(*sys.argv[1:])
