# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of all processes of a restore.

Each is filled in when all are made, but for those that pages are inherited from: these are filled before they fork, and settled after.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Protocol

from ...progress import uncounted
from ...tracee.tracee import Tracee
from ..attributes import restore_page_size
from .inheritance import NOTHING, Content, Inheritance, find
from .mm import restore_mm
from .restore import Emptied, Layout, Parking, clear, fill, find_parking, lay_out, settle, unmap


class Descriptors(Protocol):
    """The descriptors that the stubs have inherited from us."""

    pages: Dict[str, int]
    """Those of the pages files, by path."""

    def of_mapping(self, vma: Any) -> int:
        """Return that of what VMA, a vma_entry, maps."""


class FamilyMemory:
    """The memory of the processes of a tree, on its way into their stubs."""

    def __init__(
        self,
        contents: Mapping[int, Content],
        descriptors: Descriptors,
        program: Callable[[int], int],
        emptied: Optional[Emptied] = None,
        count: Callable[[int], None] = uncounted,
    ) -> None:
        """CONTENTS by process; PROGRAM gives the descriptor of a file by its number in the images; EMPTIED and COUNT as `fill` has them."""
        self._contents = contents
        self._descriptors = descriptors
        self._program = program
        self._emptied = emptied
        self._count = count
        self._inherited: Dict[int, Inheritance] = {}
        self._layouts: Dict[int, Layout] = {}
        """Of those that are filled."""
        self._parking = Parking(0, 0)
        self.read = 0
        """Pages read from the images."""

    def compare(self, makers: Mapping[int, int]) -> None:
        """Find what the processes have in common with those that fork them, their MAKERS. Touches nothing. Raises ChainError."""
        for pid, maker in makers.items():
            if pid in self._contents and maker in self._contents:
                self._inherited[pid] = find(self._contents[pid], self._contents[maker])

    def clear(self, root: Tracee) -> None:
        """Empty the address space of ROOT, the first stub, which all others are forked of. Raises OSError, RestoreError."""
        self._parking = find_parking([content.mm.vmas for content in self._contents.values()], root)
        clear(root, self._parking)

    def bequeaths(self, child: int) -> bool:
        """Tell whether CHILD inherits from the process that forks it: that one is to be filled before."""
        return bool(self._inherited.get(child, NOTHING).pages)

    def fill(self, stub: Tracee) -> None:
        """Give STUB its mappings and their content, unless it has them. Raises OSError, RestoreError."""
        if stub.pid in self._layouts:
            return
        content, inherited = self._contents[stub.pid], self._inherited.get(stub.pid, NOTHING)
        layout = self._layouts[stub.pid] = lay_out(content.mm, content.extents)
        unmap(stub, self._parking, inherited.vmas)
        restore_mm(stub, content.mm, -1 if inherited.vmas else self._program(content.mm.exe_file_id))
        restore_page_size(stub, content.tc, content.mm)
        descriptors = self._descriptors
        self.read += fill(stub, layout, descriptors.pages, descriptors.of_mapping, inherited, emptied=self._emptied, count=self._count)

    def settle(self, stub: Tracee) -> None:
        """Complete the memory of STUB, which is filled and forks no more. Raises OSError, RestoreError."""
        settle(stub, self._contents[stub.pid].mm, self._layouts[stub.pid])

    @property
    def compared(self) -> int:
        """Pages that were looked at for a copy in the process that forks the one that has them."""
        return sum(inherited.compared for inherited in self._inherited.values())

    @property
    def shared(self) -> int:
        """Pages that were not read because they are shared so."""
        return sum(inherited.size for inherited in self._inherited.values())
