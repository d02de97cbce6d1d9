# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What must agree in different places of the collection."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from _engine.options import DumpOptions, RestoreOptions
from _engine.version import VERSION

ROOT = Path(__file__).parent.parent.parent
ENGINE = ROOT / "plugins" / "module_utils" / "_engine"
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))


def test_the_action_group_has_every_module_in_alphabetical_order() -> None:
    text = (ROOT / "meta" / "runtime.yml").read_text()
    assert re.findall(r"^    - (\w+)$", text, re.MULTILINE) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_the_readme_names_the_module(module: str) -> None:
    assert f"`stillframe.checkpoint.{module}`" in (ROOT / "README.md").read_text()


def test_collection_and_engine_have_the_same_version() -> None:
    assert f"\nversion: {VERSION}\n" in (ROOT / "galaxy.yml").read_text()


@pytest.mark.parametrize("options", [DumpOptions, RestoreOptions])
def test_every_option_of_the_engine_is_an_argument_of_the_modules(options: type) -> None:
    module = {DumpOptions: "dump", RestoreOptions: "restore"}[options]
    code = (ROOT / "plugins" / "module_utils" / "_argspecs.py").read_text() + (ROOT / "plugins" / "modules" / f"{module}.py").read_text()
    # restore_sibling: a module ends, and its parent is nobody's concern; inherit_fd: nobody gives a module descriptors; apart: a drill's;
    # stand_ins: a move's
    others = {"restore_sibling", "inherit_fd", "progress", "apart", "stand_ins", "filled"}
    names = {"action_script" if field.name == "hook" else field.name for field in fields(options)} - others
    assert [name for name in sorted(names) if f'"{name}": {{"type"' not in code] == []


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda path: str(path.relative_to(ENGINE)))
def test_the_engine_imports_only_itself_and_its_libraries(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        assert not [name for name in names if name.split(".")[0] in ("ansible", "ansible_collections", "importlib", "_engine", "plugins")]
