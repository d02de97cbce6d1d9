# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A Java virtual machine: threads that compute and wait, a collector, safepoints, a compiler, figures for jps in a mapped file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from http_service import PROGRAMS, HttpService
from service import go_through_chain
from victim import Lab


class Jvm(HttpService):
    programs = ("java", "javac")

    def command(self) -> list[str]:
        subprocess.run(["javac", "-d", str(self.folder), str(PROGRAMS / "Server.java")], check=True, stdin=subprocess.DEVNULL)
        return ["java", "-Xmx128m", "-cp", str(self.folder), "Server", str(self.port)]

    def files(self) -> tuple[Path, ...]:
        return (Path(f"/tmp/hsperfdata_root/{self.pid}"),)


def test_jvm(lab: Lab) -> None:
    go_through_chain(Jvm(lab))
