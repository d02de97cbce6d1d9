# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers each connection to a port with its PID and a count that it also writes to a file.

Arguments: the file, and a file to which it writes the port when it listens.
"""

from __future__ import annotations

import os
import socket
import sys


def main() -> None:
    """Answer until killed."""
    book = os.open(sys.argv[1], os.O_RDWR)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with open(sys.argv[2] + ".new", "w", encoding="ascii") as told:
            told.write(str(server.getsockname()[1]))
        os.rename(sys.argv[2] + ".new", sys.argv[2])
        count = 0
        while True:
            connection, _peer = server.accept()
            count += 1
            os.pwrite(book, b"%08d" % count, 0)
            connection.sendall(b"%d %d %s" % (os.getpid(), count, os.pread(book, 8, 0)))
            connection.close()


if __name__ == "__main__":
    main()
