# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""A table of kinds of state by direction between CRIU and us, made from what became of the tests.

A test names what it carries by the marker `kind` and where by `direction`, or by its parameters dumper and restorer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kinds import CHAINS, DIRECTIONS, GROUPS, KINDS, NOTES, OUR_CHAIN, OURS, THEIR_CHAIN, THEIRS

RED, YES, NO, SKIPPED, NONE = "RED", "yes", "no", "skipped", "-"
_PARAMETERS = {("stillframe", "criu"): OURS, ("criu", "stillframe"): THEIRS}
_FILE = Path(".cache", "interop.md")
Cell = tuple[str, str]
"""A kind and a direction."""


class Table:
    """A plugin of pytest. The table is printed at the end, and written to .cache/interop.md."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._claims: dict[str, list[Cell]] = {}
        self._outcomes: dict[Cell, dict[str, dict[str, None]]] = {}
        self._notes: dict[str, int] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note what each test carries. Raises UsageError for a kind or direction that has no place in the table."""
        for item in items:
            kinds = [kind for mark in item.iter_markers("kind") for kind in mark.args]
            unknown = sorted({*kinds, *_directions(item)} - {*KINDS, *DIRECTIONS})
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: {', '.join(unknown)} is not in tests/interop/kinds.py")
            if kinds and _directions(item):
                self._claims[item.nodeid] = [(kind, direction) for kind in kinds for direction in _directions(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a test."""
        if report.when != "call" and report.passed:
            return
        outcome, reason = RED if report.failed else YES, ""
        if hasattr(report, "wasxfail"):
            outcome, reason = NO, report.wasxfail
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            outcome, reason = SKIPPED, report.longrepr[2].replace("Skipped: ", "")
        elif report.failed:
            reason = f"{report.nodeid} failed"
        for cell in self._claims.get(report.nodeid, ()):
            self._outcomes.setdefault(cell, {}).setdefault(outcome, {})[reason] = None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, when a test of this run has a place in it."""
        if self._outcomes:
            lines = list(self.lines())
            (self._root / _FILE).parent.mkdir(exist_ok=True)
            (self._root / _FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
            terminalreporter.section(f"between CRIU and us ({_FILE})")
            for line in lines:
                terminalreporter.write_line(line, red=RED in line)

    def lines(self) -> Iterator[str]:
        """Yield the table in Markdown, and then the reasons that it refers to."""
        rows = [("kind", *DIRECTIONS)]
        for group, kinds in GROUPS.items():
            rows += [(f"{group}: {kind}", *(self._cell(kind, direction) for direction in DIRECTIONS)) for kind in kinds]
        widths = [max(map(len, column)) for column in zip(*rows)]
        rows.insert(1, tuple("-" * width for width in widths))
        yield from ("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)
        yield ""
        yield from (f"{number}. {note}" for note, number in self._notes.items())

    def _cell(self, kind: str, direction: str) -> str:
        found = self._outcomes.get((kind, direction), {})
        outcome = next((one for one in (RED, YES, NO, SKIPPED) if one in found), NONE)
        reasons = [reason for one in found if one in (RED, NO) or one == outcome for reason in found[one] if reason]
        if not found:
            memory = direction not in (OUR_CHAIN, THEIR_CHAIN) or kind in GROUPS["memory"]
            reasons = [NOTES.get((kind, direction), "no test of it ran" if memory else CHAINS)]
        numbers = [str(self._notes.setdefault(reason, len(self._notes) + 1)) for reason in reasons]
        return f"{outcome} ({', '.join(numbers)})" if numbers else outcome


def _directions(item: pytest.Item) -> tuple[str, ...]:
    """Return the directions of a test, none for one from us to us."""
    if mark := item.get_closest_marker("direction"):
        return tuple(mark.args)
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    direction = _PARAMETERS.get((parameters.get("dumper"), parameters.get("restorer")), "")
    return (direction,) if direction else ()


def register(config: pytest.Config) -> None:
    """Make the table part of a run of pytest."""
    config.addinivalue_line("markers", "kind(name, ...): kinds of state that the test carries, as in tests/interop/kinds.py")
    config.addinivalue_line("markers", "direction(name, ...): from whom to whom it carries them, as in tests/interop/kinds.py")
    config.pluginmanager.register(Table(config.rootpath), "interop table")
