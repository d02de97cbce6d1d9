# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the modules share: one run of the engine, its log, and its errors. Private to this collection."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Type, TypeVar

from ansible.module_utils.basic import AnsibleModule

from . import _deps
from ._argspecs import ONE_PROCESS, ArgumentSpec
from ._engine.action_script import ActionScripts
from ._engine.cli.line_log import LineLog, open_log
from ._engine.errors import EngineError, UsageError
from ._engine.options import DumpOptions, MigrateOptions, PageServerOptions, ReceiveTreeOptions, RestoreOptions
from ._progress import close_progress, open_progress

if TYPE_CHECKING:
    from ._engine.chains.retention import Rule
    from ._engine.transfer.tls import TlsOptions

Options = TypeVar("Options", DumpOptions, RestoreOptions, MigrateOptions, ReceiveTreeOptions)
VERBOSITY = 4
"""Everything goes to the log file, where there is one."""


@dataclass(frozen=True)
class Outcome:
    """What a module did, or in check mode would do."""

    changed: bool
    result: Any
    """A dataclass of the engine's results, or a mapping."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """For diff mode, as is `after`."""
    after: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    """Why the module is to fail, although it did its work; its result is told all the same."""


def run(work: Callable[[AnsibleModule], Outcome], argument_spec: ArgumentSpec, libraries: Sequence[str], **limits: Any) -> None:
    """Build the module, let it WORK once, and answer. LIMITS are those of AnsibleModule, such as `mutually_exclusive`.

    A module that names a process tree takes exactly one of the arguments that do.
    """
    if "tree" in argument_spec:
        limits.setdefault("mutually_exclusive", []).append(ONE_PROCESS)
        limits.setdefault("required_one_of", []).append(ONE_PROCESS)
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True, **limits)
    _deps.require(module, *libraries)
    try:
        outcome = work(module)
    except EngineError as error:
        module.fail_json(msg=str(error), **_obstacles(error))
    except OSError as error:
        module.fail_json(msg=f"the system refused: {error}; the log at its highest verbosity tells what was being done")
    finally:
        close_progress()
    answer = as_dict(outcome.result)
    for warning in answer.pop("warnings", ()):
        module.warn(warning)
    if outcome.before or outcome.after:
        answer["diff"] = {"before": dict(outcome.before), "after": dict(outcome.after)}
    if outcome.failure:
        module.fail_json(msg=outcome.failure, changed=outcome.changed, **answer)
    module.exit_json(changed=outcome.changed, **answer)


def as_dict(result: Any) -> Dict[str, Any]:
    """Return a result of the engine as plain values, with its field names as keys."""
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else dict(result)


def open_module_log(params: Mapping[str, Any]) -> LineLog:
    """Open the log that the PARAMS of a module ask for. Raises UsageError when it cannot be written."""
    if not params["log_file"]:
        return open_log(os.devnull, 0)
    return open_log(os.path.join(params["work_dir"] or params["images_dir"], params["log_file"]), VERBOSITY)


def engine_options(kind: Type[Options], params: Mapping[str, Any], log: LineLog, **more: Any) -> Options:
    """Return the engine's options of KIND from the PARAMS of a module, the action scripts among them."""
    scripts = ActionScripts(params["action_script"], params["images_dir"], log.logger, log.descriptor)
    calls: Dict[str, Any] = {"progress": open_progress(log.logger), **({"hook": scripts} if params["action_script"] else {})}
    names = {one.name for one in fields(kind)}
    return kind(**{**{name: value for name, value in params.items() if name in names}, **calls, **more})


def retention_rule(params: Mapping[str, Any]) -> Rule:
    """Return what the PARAMS of a module say about the dumps to keep."""
    from ._engine.chains.retention import Rule

    return Rule(**{name: params[f"keep_{name}"] for name in ("last", "hourly", "daily", "weekly", "within")})


def tls_options(params: Mapping[str, Any]) -> Optional[TlsOptions]:
    """Return what the PARAMS of a module say about TLS, None for none. Raises UsageError."""
    from ._engine.transfer.tls import TlsOptions

    if not params["tls"]:
        return None
    names = ("cert", "key", "peer_cert", "peer_fingerprint", "cacert", "cacrl")
    given = {name: params[f"tls_{name}"] for name in names if params[f"tls_{name}"]}
    if not {"cert", "key"} <= set(given) or not {"peer_cert", "peer_fingerprint", "cacert"} & set(given):
        raise UsageError("TLS needs tls_cert, tls_key, and what the other side is known by, such as tls_peer_cert; or set tls to false")
    return TlsOptions(verify_name=not params["tls_no_cn_verify"], **given)


def page_server_options(params: Mapping[str, Any]) -> Optional[PageServerOptions]:
    """Return where the PARAMS of a module send the pages to, None for nowhere. Raises UsageError."""
    if not params["page_server"]:
        return None
    if not params["port"]:
        raise UsageError("page_server needs the port that the page server listens on; give it as port")
    return PageServerOptions(params["address"], params["port"], tls=tls_options(params))


def find_tree(params: Mapping[str, Any]) -> int:
    """Return the PID of the process that the PARAMS of a module name. Raises TargetError."""
    from ._engine.find import find

    ways = {name: params[name] for name in ONE_PROCESS if name != "tree"}
    return find(pid=params["tree"], **ways)


def _obstacles(error: EngineError) -> Dict[str, Any]:
    """Return what stands in the way, where the engine's ERROR says so one by one."""
    obstacles = getattr(error, "obstacles", ())
    return {"obstacles": [asdict(obstacle) for obstacle in obstacles]} if obstacles else {}
