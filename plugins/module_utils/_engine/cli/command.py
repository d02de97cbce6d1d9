# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands: CRIU's verbs, those that are here and those that are refused by name."""

from __future__ import annotations

from collections.abc import Mapping

SUPPORTED_VERBS: Mapping[str, str] = {
    "dump": "write a process tree into images",
    "pre-dump": "write only its memory, while it runs",
    "checkpoint": "take the next dump of a service that runs on, in the images dir",
    "restore": "make the process tree anew from its images",
    "drill": "restore where nobody notices, run the command behind -- as a check, and end it",
    "dedup": "free in the parent dumps what the newest one replaces",
    "squash": "make a dump hold all its pages itself, and remove its parents",
    "prune": "remove the dumps that no --keep rule keeps, of all those in the images dir",
    "verify": "read dumps and their parents whole, and tell all that is wrong with them",
    "compress": "let the pages of a dump that is hardly needed take less room",
    "decompress": "make a compressed dump ready again",
    "export": "write a dump and its parents into one file, --archive",
    "import": "unpack --archive into the images dir, which is made",
    "page-server": "receive the pages of a dump from another host",
    "migrate": "move a process tree to another host while it runs",
    "receive": "take a process tree that moves here",
    "check": "tell whether this machine has what the commands need",
}

IMAGE_VERBS = frozenset({"dedup", "squash", "prune", "verify", "compress", "decompress", "export", "import"})
"""Those that touch no process."""
MAKING_VERBS = frozenset({"import"})
"""Those that make the images dir."""

UNSUPPORTED_VERBS: Mapping[str, str] = {
    "lazy-pages": "restore without it, all pages are there before a restored task runs",
    "cpuinfo": "restore checks the register state in the images against the CPU itself",
    "service": "start a command for each dump and restore instead",
    "swrk": "start a command for each dump and restore instead",
}

DEPRECATED_VERBS: Mapping[str, str] = {
    "exec": "CRIU took it away as well, trace the process yourself",
    "show": "images are shown by `crit show FILE`",
}
DEPRECATED_STATUS = 255
"""What CRIU exits with on its deprecated verbs (main in crtools.c)."""
