# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""Action scripts: programs run on the host at the stages of a dump or a restore, as CRIU's --action-script.

A script is told the stage in CRTOOLS_SCRIPT_ACTION, the images directory in CRTOOLS_IMAGE_DIR and, from the stage
where it is known on, the PID of the root task in CRTOOLS_INIT_PID. Its input is empty, its output goes to the log.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping, Sequence

from .errors import EngineError

TOLERANT_STAGES = frozenset({"pre-resume", "post-resume", "network-unlock"})
"""Stages where a script that fails stops nothing: the tasks are past the point of return (CRIU's cr-restore.c)."""


class ActionScriptError(EngineError):
    """An action script failed, and with it the verb."""

    def __init__(self, stage: str, failures: Sequence[str]) -> None:
        self.stage = stage
        super().__init__(f"stage {stage}: {'; '.join(failures)}; mend the script or leave it out")


class ActionScripts:
    """A hook (see options.Hook) that runs all of some scripts at every stage, the one named last first, as CRIU does."""

    def __init__(self, paths: Sequence[str], images_dir: str, log: logging.Logger, output: int) -> None:
        """Take the PATHS of the scripts, relative to the directory that they run in, and the descriptor for their OUTPUT."""
        self._paths = tuple(reversed(paths))
        self._images_dir = images_dir
        self._log = log
        self._output = output

    def __call__(self, stage: str, environment: Mapping[str, str]) -> None:
        """Run every script for STAGE with ENVIRONMENT added to ours.

        Raises ActionScriptError when one fails, after all have run, except at the TOLERANT_STAGES.
        """
        self._log.debug("Running %s scripts", stage)
        variables = {**os.environ, "CRTOOLS_IMAGE_DIR": self._images_dir, **environment, "CRTOOLS_SCRIPT_ACTION": stage}
        failures = tuple(failure for path in self._paths for failure in self._run(path, variables))
        if not failures:
            return
        if stage not in TOLERANT_STAGES:
            raise ActionScriptError(stage, failures)
        for failure in failures:
            self._log.error("stage %s: %s", stage, failure)

    def _run(self, path: str, variables: dict[str, str]) -> tuple[str, ...]:
        """Run the script at PATH and return how it failed, if it did."""
        try:
            done = subprocess.run([path], env=variables, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, check=False)
        except OSError as error:
            return (f"action script {path} cannot be run: {error.strerror}",)
        if done.returncode < 0:
            return (f"action script {path} was killed by signal {-done.returncode}",)
        return (f"action script {path} ended with status {done.returncode}",) if done.returncode else ()
