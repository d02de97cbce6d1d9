# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins share: while a module runs, ask its host how far it is, and tell the person at the terminal.

The module runs as it does without an action plugin, and its result is its own. Beside it a thread asks over a connection like
its own: a second process of the same program, which shares the first one's ControlMaster where there is one. Where that does not
work, nobody is told anything, and all else is as it was.
"""

from __future__ import annotations

import contextvars
import copy
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Optional

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible.utils.display import Display

from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.progress import Reading
from ansible_collections.stillframe.checkpoint.plugins.module_utils._progress import VARIABLE, progress_path

SWITCH = "stillframe_progress"
"""The variable of Ansible that switches it off."""
_QUIET = 2.0
"""Seconds: what takes less says nothing."""
_PACE = 0.05
"""Of the time that a module has run: the time until the next line, at least a second."""
_PATIENCE = 5.0
"""Seconds to wait for the last answer of a host."""
_WHAT = ("systemd_unit", "name", "tree", "pid", "pid_file", "cgroup", "images_dir")
"""The arguments that tell the reader which task it is, the best first."""

display = Display()


class ProgressAction(NormalAction):
    """Runs the module of the same name."""

    def run(self, tmp: Optional[str] = None, task_vars: Optional[dict[str, Any]] = None) -> dict[str, Any]:
        """Run the module, and return what it returns."""
        if self._task.async_val or self._task.check_mode or self._task.no_log or not self._wanted(task_vars or {}):
            return super().run(tmp, task_vars)
        environment, token = self._task.environment, uuid.uuid4().hex
        given = environment if isinstance(environment, list) else [environment]
        self._task.environment = [*given, {VARIABLE: token}]
        try:
            with self._told(str(progress_path(token)), task_vars or {}):
                return super().run(tmp, task_vars)
        finally:
            self._task.environment = environment

    def _wanted(self, task_vars: dict[str, Any]) -> bool:
        return boolean(self._templar.template(task_vars.get(SWITCH, True)), strict=False)

    @contextmanager
    def _told(self, path: str, task_vars: dict[str, Any]) -> Iterator[None]:
        """Tell how far the module is that writes to file PATH on its host, until left."""
        over = threading.Event()
        context = contextvars.copy_context()
        label = self._label(task_vars)
        thread = threading.Thread(target=context.run, args=(self._beside()._tell, path, label, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(_PATIENCE)

    def _beside(self) -> ProgressAction:
        """Return a copy of us that asks over a connection of its own: the first one is in use."""
        other = copy.copy(self)
        other._connection = copy.copy(self._connection)
        other._connection.become = copy.copy(self._connection.become)  # it keeps what it waits for in a command's output
        return other

    def _label(self, task_vars: dict[str, Any]) -> str:
        host = self._task.delegate_to or task_vars.get("inventory_hostname", "")
        what = next((str(self._task.args[name]) for name in _WHAT if self._task.args.get(name)), "")
        return f"[{host}] {self._task.action.rpartition('.')[2]} {what}".rstrip()

    def _tell(self, path: str, label: str, over: threading.Event) -> None:
        began = time.monotonic()
        last: Optional[Reading] = None
        wait = _QUIET
        while not over.wait(wait):
            wait = max(1.0, _PACE * (time.monotonic() - began))
            try:
                reading = self._ask(path)
            except (AnsibleError, OSError, LookupError, ValueError, TypeError):
                return  # the module's own connection tells what is wrong with the host
            if reading is not None and reading != last and not over.is_set():
                display.display(f"{label}: {reading}")
                last = reading

    def _ask(self, path: str) -> Optional[Reading]:
        """Return how far the module is, None when it has said nothing yet. Raises ValueError, TypeError for what is no reading."""
        answer = self._low_level_execute_command(f"cat {self._connection._shell.quote(path)} 2>/dev/null || true", sudoable=True)
        text = answer["stdout"].strip()
        if not text:
            return None
        found = json.loads(text)
        stage = "".join(letter for letter in str(found["stage"])[:80] if letter.isprintable())
        return Reading(stage, int(found["done"]), int(found["total"]), float(found["seconds"]))
