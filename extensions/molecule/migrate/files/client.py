# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""client.py ADDRESS: count up in Redis over one connection, and write down how far it has come, and the longest wait for an answer."""

import json
import os
import socket
import sys
import time

FILE = "/var/tmp/client.json"


def main(address: str) -> None:
    """Count until the connection breaks."""
    longest = 0.0
    with socket.create_connection((address, 6379)) as redis:
        number = 0
        while True:
            number += 1
            begin = time.monotonic()
            redis.sendall(b"INCR count\r\n")
            answer = redis.recv(100)
            longest = max(longest, time.monotonic() - begin)
            if answer != b":%d\r\n" % number:
                raise SystemExit(f"the answer to {number} is {answer!r}")
            with open(f"{FILE}.new", "w", encoding="utf-8") as file:
                json.dump({"count": number, "longest": longest}, file)
            os.rename(f"{FILE}.new", FILE)
            time.sleep(0.001)  # a fixed rate: the host has other things to do


if __name__ == "__main__":
    main(sys.argv[1])
