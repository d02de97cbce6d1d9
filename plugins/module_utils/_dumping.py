# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What `dump` and `pre_dump` share: the directory that is made, check mode, and the difference. Private to this collection."""

from __future__ import annotations

import errno
import logging
import os
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.formatters import human_to_bytes

from ._engine.cli.line_log import open_log
from ._engine.errors import ImagesError, UnsupportedError, UsageError
from ._engine.options import DumpOptions
from ._engine.results import DumpPlan, DumpResult
from ._module import Outcome, engine_options, find_tree, open_module_log, page_server_options

Verb = Callable[[DumpOptions, logging.Logger], DumpResult]
Plan = Callable[[DumpOptions], DumpPlan]


def perform(module: AnsibleModule, verb: Verb, plan: Plan, left: str) -> Outcome:
    """Have the engine dump what the module's arguments name, or in check mode say whether it could.

    LEFT is how the VERB leaves the tree: running, stopped or killed. Raises EngineError.
    """
    params = module.params
    tree, server = find_tree(params), page_server_options(params)
    before = {"images": "a dump" if _holds_dump(params["images_dir"]) else "none", "processes": "running"}
    if module.check_mode:
        planned = plan(engine_options(DumpOptions, _as_if_made(params), open_log(os.devnull, 0), tree=tree, page_server=server))
        if not planned.dumpable:
            raise UnsupportedError(planned.obstacles)
        return Outcome(True, planned, before, _after(params, planned.pids, left))
    with directory(params["images_dir"]):
        log = open_module_log(params)
        result = verb(engine_options(DumpOptions, params, log, tree=tree, page_server=server), log.logger)
    return Outcome(True, result, before, _after(params, result.pids, left))


def size(name: str, text: str) -> int:
    """Return the bytes that option NAME says with TEXT. Raises UsageError."""
    try:
        return int(human_to_bytes(text))
    except ValueError as error:
        raise UsageError(f"{name} is {text!r}; give a size such as 512K, 1M or 4096") from error


def _as_if_made(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return PARAMS for the plan of a dump whose directory is still to be made: then the engine looks at tree and parent only."""
    path = params["images_dir"]
    if os.path.lexists(path):
        return params
    above = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(above):
        raise _unmakeable(path, os.strerror(errno.ENOENT))
    parent = params["prev_images_dir"]
    return {**params, "images_dir": "", "prev_images_dir": parent and os.path.normpath(os.path.join(path, parent))}


def _after(params: Mapping[str, Any], pids: Sequence[int], left: str) -> Dict[str, str]:
    parent = f" on top of {params['prev_images_dir']}" if params["prev_images_dir"] else ""
    return {"images": f"a dump of {', '.join(map(str, pids))}{parent}", "processes": left}


def _holds_dump(images_dir: str) -> bool:
    return os.path.exists(os.path.join(images_dir, "inventory.img"))


@contextmanager
def directory(path: str) -> Iterator[None]:
    """Make directory PATH where it is missing, and take it away again when what is done with it fails."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        yield
        return
    except OSError as error:
        raise _unmakeable(path, error.strerror) from error
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.rmdir(path)
        raise


def _unmakeable(path: str, why: str) -> ImagesError:
    return ImagesError(f"images_dir {path} cannot be made: {why}; make the directory above it first")
