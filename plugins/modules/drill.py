#!/usr/bin/python
# Copyright (c) 2026, Stillframe contributors
# GNU General Public License v2.0 or later, so v3.0 too (see LICENSES/GPL-2.0-or-later.txt)
# SPDX-License-Identifier: GPL-2.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: drill
short_description: Prove that a dump can be restored
version_added: 0.2.0
description:
  - Restores the process tree of a dump where nobody notices, runs a command on it as a check, and ends it.
    The module fails when the tree cannot be restored, has ended by itself, or the check fails.
  - The tree gets a PID, a network, a mount and an IPC namespace of its own. So its PIDs and ports are free, even while the original runs.
  - It sees all files of the host, but what it and the check write goes to memory, and is gone in the end.
    The files that the dump keeps are there as they were at the dump.
  - Every address is one of its own, and no other host can be reached. TCP connections are closed when the tree is restored.
  - It stays in the control groups of the module.
  - Nothing of it is left, also when the module is killed.
extends_documentation_fragment:
  - stillframe.checkpoint._attributes
  - stillframe.checkpoint._images
attributes:
  check_mode:
    support: full
    details:
      - It does the same in check mode, since it changes nothing.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  images_dir:
    description:
      - The directory of the dump.
  command:
    description:
      - The check, a command for the shell. It is good when it ends with 0.
      - It runs in the namespaces of the tree, as the user of the module. The environment variable E(STILLFRAME_PID) has the root of the
        tree, E(STILLFRAME_PIDS) all its processes.
      - Without O(command) and O(argv), it is only seen whether the tree can be restored.
    type: str
  argv:
    description:
      - The check as a list, its program first, for no shell.
    type: list
    elements: str
  timeout:
    description:
      - Seconds that the check may take.
    type: float
    default: 60
  file_validation:
    description:
      - How the files that the tree has open are told to be the same, as in M(stillframe.checkpoint.restore).
    type: str
    choices: [filesize, buildid]
    default: buildid
  log_file:
    description:
      - A file for the log of the restore, in O(images_dir) unless the path is absolute.
    type: path
seealso:
  - module: stillframe.checkpoint.restore
  - module: stillframe.checkpoint.verify
author:
  - Stillframe contributors (@stillframe)
"""

EXAMPLES = r"""
- name: See whether the newest dump of Redis has its data
  stillframe.checkpoint.drill:
    images_dir: /var/lib/checkpoints/redis/latest
    command: test "$(redis-cli -p 6379 dbsize)" -gt 1000
    timeout: 30
"""

RETURN = r"""
images_dir:
  description: The directory of the dump.
  returned: when the tree was restored
  type: str
  sample: /var/lib/checkpoints/redis/latest
dump_id:
  description: The identity of the dump, empty for one that CRIU made.
  returned: when the tree was restored
  type: str
  sample: 6f1c2f0e-3b1f-4b6e-9c8c-0f2f0d5c7a11
pid:
  description: The process at the root of the tree, as the dump has it.
  returned: when the tree was restored
  type: int
  sample: 4711
pids:
  description: The processes of the tree, its root first.
  returned: when the tree was restored
  type: list
  elements: int
  sample: [4711, 4712]
good:
  description: Whether the check ended with 0, and the tree had not ended by itself.
  returned: when the tree was restored
  type: bool
  sample: true
rc:
  description: The exit status of the check, below zero the signal that ended it.
  returned: when the tree was restored
  type: int
  sample: 0
stdout:
  description: What the check wrote, the last MiB of it.
  returned: when the tree was restored
  type: str
  sample: ""
stderr:
  description: What the check wrote to its standard error, the last MiB of it.
  returned: when the tree was restored
  type: str
  sample: ""
timed_out:
  description: Whether the check took longer than O(timeout) and was ended.
  returned: when the tree was restored
  type: bool
  sample: false
alive:
  description: Whether the root of the tree was still there when the check had ended.
  returned: when the tree was restored
  type: bool
  sample: true
restore_time:
  description: Microseconds that the restore took.
  returned: when the tree was restored
  type: int
  sample: 180000
check_time:
  description: Microseconds that the check took.
  returned: when the tree was restored
  type: int
  sample: 25000
wall_time:
  description: Microseconds from beginning to end.
  returned: when the tree was restored
  type: int
  sample: 260000
obstacles:
  description: Each thing that stands in the way, where the tree cannot be restored.
  returned: when something stands in the way
  type: list
  elements: dict
  contains:
    pid:
      description: The process that it is about, V(0) for none.
      type: int
      sample: 4711
    where:
      description: The PID, file or image.
      type: str
      sample: /var/lib/redis/dump.rdb (fd 7)
    why:
      description: Why it stands in the way.
      type: str
      sample: it has 100 bytes, at the dump it had 90
    remedy:
      description: What to do about it.
      type: str
      sample: put the file back as it was
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.stillframe.checkpoint.plugins.module_utils import _argspecs, _deps
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.cli.line_log import open_log
from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.options import DrillOptions
from ansible_collections.stillframe.checkpoint.plugins.module_utils._module import VERBOSITY, Outcome, run

ARGUMENTS: _argspecs.ArgumentSpec = {
    **_argspecs.IMAGES,
    "command": {"type": "str"},
    "argv": {"type": "list", "elements": "str"},
    "timeout": {"type": "float", "default": 60},
    "file_validation": {"type": "str", "choices": ["filesize", "buildid"], "default": "buildid"},
    "log_file": {"type": "path"},
}


def work(module: AnsibleModule) -> Outcome:
    """Restore the dump where nobody notices, and check it."""
    from ansible_collections.stillframe.checkpoint.plugins.module_utils._engine.drill import drill

    params = module.params
    images_dir = os.path.abspath(params["images_dir"])
    log = open_log(os.path.join(images_dir, params["log_file"]), VERBOSITY) if params["log_file"] else open_log(os.devnull, 0)
    command = tuple(params["argv"] or ()) or (("/bin/sh", "-c", params["command"]) if params["command"] else ())
    result = drill(DrillOptions(images_dir, command, params["timeout"], params["file_validation"]), log.logger)
    return Outcome(False, result, failure="" if result.good else result.verdict())


def main() -> None:
    """Run the module."""
    run(work, ARGUMENTS, _deps.TRACING, mutually_exclusive=[("command", "argv")])


if __name__ == "__main__":
    main()
