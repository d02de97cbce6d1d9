# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Other roots for control groups: CRIU's --cgroup-root [CONTROLLER:]/PATH.

A dump with one has all from there on; a restore puts what the dump has of a hierarchy below it instead.
"""

from __future__ import annotations

from typing import Any, Dict, Sequence

from ..errors import UsageError

_ALL = "*"


class Roots:
    """The roots that were asked for."""

    def __init__(self, given: Sequence[str]) -> None:
        """GIVEN: each "/PATH", for all hierarchies that have none of their own, or "CONTROLLER:/PATH". Raises UsageError."""
        self._by_controller: Dict[str, str] = {}
        for one in given:
            controller, _colon, path = one.rpartition(":")
            if not path.startswith("/"):
                raise UsageError(f"cgroup_root {one!r} is no root of control groups; give it as /PATH or CONTROLLER:/PATH")
            self._by_controller[controller or _ALL] = "/" + path.strip("/")

    def of(self, hierarchy: str) -> str:
        """Return the root for HIERARCHY, named as /proc/PID/cgroup does, or "" where none was given."""
        own = (self._by_controller[one] for one in hierarchy.split(",") if one in self._by_controller)
        return next(own, self._by_controller.get(_ALL, ""))

    def move(self, image: Any) -> None:
        """Put what IMAGE, a cgroup_entry, has of each hierarchy below the root for it."""
        for controller in image.controllers:
            hierarchy = ",".join(controller.cnames)
            root = self.of(hierarchy)
            heads = {"/" + one.dir_name.strip("/"): one for one in controller.dirs} if root else {}
            for member in (one for found in image.sets for one in found.ctls if one.name == hierarchy):
                head = next((path for path in heads if member.path == path or member.path.startswith(path.rstrip("/") + "/")), None)
                if head is not None:
                    member.path = root.rstrip("/") + member.path[len(head.rstrip("/")) :] or "/"
            for one in heads.values():
                one.dir_name = root.strip("/")


NO_ROOTS = Roots(())
