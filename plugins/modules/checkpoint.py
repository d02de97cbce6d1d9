#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: checkpoint
short_description: Take the next dump of a running service
version_added: 0.2.0
description:
  - Takes the next dump of a process tree that runs on, in the directory that holds all its dumps, and removes those that no rule keeps.
  - Each dump has a directory of its own there, V(1), V(2) and so on. The symbolic link V(latest) leads to the newest one, from the moment
    on when that is safe on disk.
  - The dump holds only what changed since the one before, whenever that is possible. A full one is made where there is no dump yet, the
    service was restarted, the dump before is damaged or has lost a parent, its chain has O(full_every) dumps, or the tracking of memory
    was lost. RV(reason) tells.
  - Only one run at a time works on the dumps of a service. A second one fails.
  - What a run left unfinished that was killed is removed by the next one.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._process
  - stillframe.checkpoint._images
  - stillframe.checkpoint._images.run
  - stillframe.checkpoint._images.take
  - stillframe.checkpoint._images.whole
  - stillframe.checkpoint._images.keep
  - stillframe.checkpoint._images.external
attributes:
  check_mode:
    support: full
    details:
      - Tells which dump would be made and why, and fails as the dump itself would where the tree can't be dumped. The tree is not stopped.
  diff_mode:
    support: full
  idempotent:
    support: none
    details:
      - Every dump is a new one.
options:
  images_dir:
    description:
      - The directory of all dumps of this service, and of no other one.
      - It is made, for root alone to read, where it is missing and the directory above it exists.
  full_every:
    description:
      - The longest chain. When so many dumps build on each other, the next one is a full one. With V(0) there is no limit.
    type: int
    default: 0
seealso:
  - module: stillframe.checkpoint.dump
  - module: stillframe.checkpoint.prune
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: Take the next dump of Redis, and keep the last 24 and one for each day of a week
  stillframe.checkpoint.checkpoint:
    systemd_unit: redis-server
    images_dir: /var/lib/checkpoints/redis
    full_every: 50
    keep_last: 24
    keep_daily: 7

- name: Restore the newest dump
  stillframe.checkpoint.restore:
    images_dir: /var/lib/checkpoints/redis/latest
"""

RETURN = r"""
images_dir:
  description: The directory of the new dump. In check mode, that of all dumps.
  returned: success
  type: str
  sample: /var/lib/checkpoints/redis/7
incremental:
  description: Whether the dump builds on the one before it.
  returned: success
  type: bool
  sample: true
reason:
  description: V(incremental), or why the dump is a full one (V(first), V(restarted), V(unsound), V(too_long), V(untracked)).
  returned: success
  type: str
  sample: incremental
why:
  description: The same in words.
  returned: success
  type: str
  sample: the one before, /var/lib/checkpoints/redis/6, can be built on
parent:
  description: The directory of the dump that it would build on, empty for a full one.
  returned: success, in check mode
  type: str
  sample: /var/lib/checkpoints/redis/6
swept:
  description: Directories that earlier runs left unfinished, which were removed.
  returned: success, outside check mode
  type: list
  elements: str
  sample: []
removed:
  description: Directories of the dumps that no rule keeps, which were removed.
  returned: success, outside check mode
  type: list
  elements: str
  sample: [/var/lib/checkpoints/redis/1]
bytes_freed:
  description: Bytes on disk that their removal gave back.
  returned: success, outside check mode
  type: int
  sample: 29491200
dump_id:
  description: The identity of this dump. A later dump names it as its parent.
  returned: success, outside check mode
  type: str
  sample: 6f1c2f0e-3b1f-4b6e-9c8c-0f2f0d5c7a11
parent_id:
  description: The identity of the dump that this one builds on, empty for a full dump.
  returned: success, outside check mode
  type: str
  sample: 0f6a9a4e-58e6-4d0e-8a57-1ce1b0a7f3a2
pids:
  description: The processes of the tree, its root first.
  returned: success
  type: list
  elements: int
  sample: [4711, 4712]
tracker:
  description: What told which memory had changed, V(none) for a full dump.
  returned: success
  type: str
  sample: uffd_wp
tracking:
  description: What is left tracking the memory for the next dump, or V(none).
  returned: success, outside check mode
  type: str
  sample: uffd_wp
freeze:
  description: How the memory was held still while it was written, V(none) where it was not.
  returned: success, outside check mode
  type: str
  sample: snapshot
pages_scanned:
  description: Pages of private memory that were looked at.
  returned: success, outside check mode
  type: int
  sample: 81920
pages_skipped_parent:
  description: Pages of private memory that a dump before this one holds.
  returned: success, outside check mode
  type: int
  sample: 78301
pages_written:
  description: Pages of private memory that were written.
  returned: success, outside check mode
  type: int
  sample: 3619
shpages_scanned:
  description: Pages of shared memory that were looked at.
  returned: success, outside check mode
  type: int
  sample: 16
shpages_skipped_parent:
  description: Pages of shared memory that a dump before this one holds.
  returned: success, outside check mode
  type: int
  sample: 0
shpages_written:
  description: Pages of shared memory that were written.
  returned: success, outside check mode
  type: int
  sample: 16
bytes_written:
  description: Bytes on disk of all the images of this dump.
  returned: success, outside check mode
  type: int
  sample: 14995456
bytes_deduplicated:
  description: Bytes on disk that O(auto_dedup) freed in the dumps before this one.
  returned: success, outside check mode
  type: int
  sample: 0
freezing_time:
  description: Microseconds until the whole tree stood still.
  returned: success, outside check mode
  type: int
  sample: 310
frozen_time:
  description: Microseconds that the tree stood still.
  returned: success, outside check mode
  type: int
  sample: 24100
memdump_time:
  description: Microseconds spent on collecting memory.
  returned: success, outside check mode
  type: int
  sample: 9800
memwrite_time:
  description: Microseconds spent on writing memory.
  returned: success, outside check mode
  type: int
  sample: 61000
files_kept:
  description: Files that are kept with the dump.
  returned: success, outside check mode
  type: int
  sample: 3
files_copied:
  description: Bytes of them that had to be copied while the tree stood still.
  returned: success, outside check mode
  type: int
  sample: 81920
files_time:
  description: Microseconds that the tree stood still for them.
  returned: success, outside check mode
  type: int
  sample: 2100
wall_time:
  description: Microseconds from beginning to end.
  returned: success, outside check mode
  type: int
  sample: 150000
dumpable:
  description: Whether the tree can be dumped. The module fails where it can't.
  returned: success, in check mode
  type: bool
  sample: true
memory:
  description: Bytes of memory that the tree has, more than would be written.
  returned: success, in check mode
  type: int
  sample: 335544320
obstacles:
  description: Each thing that stands in the way, where the tree cannot be dumped. Nothing was touched then.
  returned: when something stands in the way
  type: list
  elements: dict
  contains:
    pid:
      description: The process that holds it, V(0) where none does.
      type: int
      sample: 4711
    where:
      description: The descriptor, mapping or state.
      type: str
      sample: fd 7
    why:
      description: Why it stands in the way.
      type: str
      sample: TCP connection to 192.0.2.7 port 40112 is established
    remedy:
      description: What to do about it.
      type: str
      sample: close it or use tcp_close
"""

import os
from typing import Any, Mapping

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps, _dumping
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.cli.line_log import LineLog, open_log
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.errors import UnsupportedError
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.options import CheckpointOptions, DumpOptions
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import (
    Outcome,
    as_dict,
    engine_options,
    find_tree,
    open_module_log,
    retention_rule,
    run,
)

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.PROCESS,
    **_argspecs.IMAGES,
    **_argspecs.RUN,
    **_argspecs.TAKE,
    **_argspecs.WHOLE,
    **_argspecs.EXTERNAL,
    **_argspecs.KEEP,
    "full_every": {"type": "int", "default": 0},
}


def work(module: AnsibleModule) -> Outcome:
    """Take the next dump."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.checkpoint import checkpoint, plan_checkpoint

    params = module.params
    params["ghost_limit"] = _dumping.size("ghost_limit", params["ghost_limit"])
    if module.check_mode:
        log = open_log(os.devnull, 0)
        plan = plan_checkpoint(_options(params, log), log.logger)
        if not plan.dump.dumpable:
            raise UnsupportedError(plan.dump.obstacles)
        told = {"images_dir": plan.images_root, "parent": plan.parent, "reason": plan.reason, "why": plan.why}
        return Outcome(True, {**as_dict(plan.dump), **told}, after={"dump": plan.why})
    with _dumping.directory(params["images_dir"]):
        log = open_module_log(params)
        result = checkpoint(_options(params, log), log.logger)
    told = as_dict(result)
    answer = {**told.pop("dump"), **told, "incremental": result.reason == "incremental"}
    return Outcome(True, answer, after={"dump": f"{result.dump.images_dir}: {result.why}"})


def _options(params: Mapping[str, Any], log: LineLog) -> CheckpointOptions:
    dumped = engine_options(DumpOptions, params, log, tree=find_tree(params))
    rule = retention_rule(params)
    return CheckpointOptions(dumped, params["full_every"], None if rule == type(rule)() else rule)


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING)


if __name__ == "__main__":
    main()
