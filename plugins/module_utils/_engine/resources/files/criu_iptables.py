# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Lifting the lock that CRIU puts on connections by iptables, its default: two rules for each (criu/netfilter.c, CRIU 4.2).

The rules can be in either of two subsystems of the kernel, so the program that CRIU used is asked to take them away.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterable

from ...kernel.nftables import MARK, Flow

_DONE = 0
_NO_SUCH_RULE = 1
"""How iptables(8) ends when there is nothing to delete: the tree was restored before, or was dumped elsewhere."""


def lift(flows: Iterable[Flow]) -> bool:
    """Delete the rules for connections, each given by what its end here sends. False when there is no program for it, or it fails."""
    lifted = True
    for flow in flows:
        program = shutil.which("iptables" if len(flow.source) == 4 else "ip6tables")
        if program is None:
            return False
        for chain, packets in (("OUTPUT", flow), ("INPUT", flow.back)):
            done = subprocess.run([program, "-w", "-t", "filter", "-D", chain, *_rule(packets)], capture_output=True, check=False)
            lifted = lifted and done.returncode in (_DONE, _NO_SUCH_RULE)
    return lifted


def _rule(packets: Flow) -> list[str]:
    family = socket.AF_INET if len(packets.source) == 4 else socket.AF_INET6
    source, destination = (socket.inet_ntop(family, packed) for packed in (packets.source, packets.destination))
    ports = ["--sport", str(packets.source_port), "--destination", destination, "--dport", str(packets.destination_port)]
    return ["--protocol", "tcp", "-m", "mark", "!", "--mark", hex(MARK), "--source", source, *ports, "-j", "DROP"]
